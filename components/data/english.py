"""Word lists for rules about English text."""

_VERBS = """
abort accept acquire activate add adjust allocate allow append apply ask assert assign attach attempt begin bind
block break build calculate call cancel change check choose clean clear clone close collect combine compare compile
complete compute concatenate configure connect construct convert copy count create decode decompress decorate define
delete deliver determine disable discard disconnect dispatch display do dump duplicate emit empty enable encode
encrypt enter erase escape evaluate examine execute exit expand extend extract feed fetch fill filter find finish
fire flush force fork format forward free generate get give guess handle hash hook ignore implement import indicate
initialize insert inspect install instantiate interpret invoke iterate join keep kill launch leave link list listen
load locate lock log look lookup make map mark match merge modify move multiply name normalize notify obtain open
override pack parse pass perform pickle poll pop prepare prepend print process produce provide publish pull push put
quote raise read receive record recv reduce refresh register release reload remove rename render repeat replace
report represent request require reset resize resolve restore resume retrieve return reverse rewind rotate round run
save scan schedule search seek select send serialize serve set shift show shut shuffle shutdown simulate skip sleep
slice sort split start step stop store strip subscribe substitute sum suspend swap switch synchronize take tell
terminate test tokenize transform translate traverse truncate try turn undo uninstall unlock unpack unregister unset
update upgrade use validate verify visit wait wake walk wrap write yield zip
"""

_NO_SUBJECTS = """
it this these that those there they he she we you i which what who note see such here not only one both its their no
since with for in on by unlike like usage set at to as otherwise also therefore thus however then and but so if when
unless example
"""

_STOP_WORDS = """
a an the of to in on for with by from at as is are was were be been being it its this that these those and or if
then else when which what who whom whose how does do did done has have had will would can could may might must shall
should also such than so but not no any all each other into out up over about under according passage passages
documentation question answer function class method module i
"""

_NEGATIONS = """
not no never none without cannot nor neither n't
"""

# Imperatives that docstrings open with.
VERBS = frozenset(_VERBS.split())

# What no noun phrase of its own begins with.
NO_SUBJECTS = frozenset(_NO_SUBJECTS.split())

# Words that carry no meaning when answers are compared.
STOP_WORDS = frozenset(_STOP_WORDS.split())

# Words that turn a statement round; n't is looked for by its ending.
NEGATIONS = frozenset(_NEGATIONS.split())
