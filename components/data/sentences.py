"""Sentences of a passage, and the questions that one sentence answers."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from components.data.english import NO_SUBJECTS, VERBS

MAX_SENTENCE_WORDS = 34

_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]*\s+(?=[A-Z`*\"'(\[])")
_CASELESS_END = re.compile(r"(?<=[.!?])\s+")
_NO_END = re.compile(r"(?:\be\.g|\bi\.e|\betc|\bvs|\bcf|\bresp|\bDr|\bNo|\bFig|\b[A-Z])\.$")
_SIGNATURE = re.compile(r"^[\w.]+\s?\(.*\)(?:\s*-{1,2}>.*)?$")
_LABEL = re.compile(r"^(?:[-*+•]|\d+[.)])\s|^:?[\w ,*/|.-]{1,40}:(?:\s|$)|^[A-Z]{2,}\b|^(?:e\.g|i\.e)\b")
_NOT_AN_OPENING = re.compile(
    r"^(?:If|There|Don't|Do not|Not|No|Raises?|See|Deprecated|Unlike|Like|This|That|It|Same|Note|Alias|TODO)\b"
)
_CONDITION = re.compile(r"^(If|When|Unless) ([^,]{6,140}), (.{8,})$")
_LATE_CONDITION = re.compile(r"^(.{8,140}?),? (if|when|unless) ([^,]{6,140})\.$")
_EFFECT = re.compile(r"^(Returns?|Raises?|Accepts?|Takes?|Yields?|Defaults? to|Equivalent to|Supports?)\b(.*)$")
_VERB = (
    r"(?:is|are|was|were|can|cannot|may|must|should|will|would|specifies|defaults|determines|gives|returns|takes|"
    r"indicates|controls|has|have|contains|represents|defines|causes|means|allows|accepts|raises|works|holds|does|"
    r"needs|provides|uses)\b"
)
_SUBJECT = re.compile(rf"^([\w`*'./() -]{{3,60}}?) {_VERB}")
_SAYS = re.compile(rf"\b{_VERB}|^(?:This|It|Describes|Pass|Use|Works|Supports)\b")
_FINITE = re.compile(r"\b(?:is|are|was|can|will|should|must|has|have|had|needs|occurred|failed)\b|n't\b")
_POINTS_ON = re.compile(r"\b(?:following|follows|below|above|Unless explicitly)\b")  # the answer is elsewhere
_DANGLING = re.compile(r"\b(?:always|also|only|to|and|or|not|of|by|that|which)$")


@dataclass(frozen=True)
class Ask:
    """A question that one sentence of a passage answers; `position` is that sentence's, 0 the first."""

    kind: str  # what | which | detail | cloze
    question: str
    answer: str  # without citation mark
    position: int


def sentences(text: str, *, opening: bool = True) -> list[str]:
    """The prose sentences of `text`, each on one line; signatures, code, lists and headings are left out.

    With `opening`, as for what documents a symbol, nothing is returned when the text does not open with prose
    (a signature before it is passed over): what follows would be read without what it is about.
    """
    text = re.sub(r" ([.,;!?])(?=\s|$)", r"\1", text)
    ends = _SENTENCE_END if any(c.isupper() for c in text) else _CASELESS_END
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        for block in _blocks(paragraph):
            found.extend(_split(block, ends))
    if not opening:
        return [s for s in found if _is_prose(s) and s[-1] in ".!?" and _says_something(s)]
    while found and _SIGNATURE.match(found[0]):
        found.pop(0)
    if not found or not _is_prose(found[0]) or found[0][0].islower() or _NOT_AN_OPENING.match(found[0]):
        return []
    return [found[0], *(s for s in found[1:] if _is_prose(s) and s[-1] in ".!?" and _says_something(s))]


def clip(parts: list[str], max_words: int) -> list[str]:
    """The first sentences that fit into `max_words`, at least one."""
    kept, words = parts[:1], len(parts[0].split()) if parts else 0
    for part in parts[1:]:
        words += len(part.split())
        if words > max_words:
            break
        kept.append(part)
    return kept


def symbol_asks(symbol: str, noun: str, group: str, parts: list[str]) -> list[Ask]:
    """Questions about a named thing (`noun`: function, method, class, module, name) described by `parts`."""
    purpose = f"What is `{symbol}`?" if noun in ("class", "module") else f"What does `{symbol}` do?"
    asks = [Ask("what", purpose, _end(parts[0]), 0)]
    described = description(parts[0], noun)
    if described and group and noun != "module" and not mentions(symbol, parts[0]):
        place = f"the `{group}` module" if noun != "method" else f"`{symbol.rsplit('.', 1)[0]}`"
        question = f"Which {noun} of {place} {described}?"
        asks.append(Ask("which", question, f"It is `{symbol}`.", 0))
    for position, sentence in enumerate(parts[1:], 1):
        asked = detail(sentence, f"`{symbol}`", parts[0], alone=len(parts) == 2)
        if asked:
            asks.append(Ask("detail", asked, _end(sentence), position))
    return asks


def prose_asks(title: str, parts: list[str], rarity: Callable[[str], float]) -> list[Ask]:
    """Questions about plain prose; `rarity` says how telling a word is (higher is rarer)."""
    asks = []
    for position, sentence in enumerate(parts):
        question = detail(sentence, f'the text "{title}"' if title else "", "", alone=False)
        if question:
            asks.append(Ask("detail", question, _end(sentence), position))
        term = _telling_word(sentence, rarity)
        if term:
            blank = re.sub(rf"(?<!\w){re.escape(term)}(?!\w)", "____", sentence)
            asks.append(Ask("cloze", f'Which word is missing: "{blank}"', f"The word is `{term}`.", position))
    return asks


def description(sentence: str, noun: str) -> str | None:
    """`sentence` as what follows "Which function …": an imperative in the third person, a class after "is"."""
    words = sentence.rstrip(".").split()
    first = words[0].lower()
    rest = " ".join(words[1:])
    if first in VERBS:
        return f"{third_person(first)} {rest}"
    if first.endswith("s") and (first[:-1] in VERBS or first[:-2] in VERBS):
        return f"{first} {rest}"
    if noun != "class" or _FINITE.search(sentence) or len(words) < 4:
        return None
    if first in ("a", "an", "the"):
        return f"is {first} {rest}"
    if words[0][0].isupper() and words[0][1:].islower() and not first.endswith(("ly", "ed", "ing", "s")):
        return f"is the {first} {rest}"
    return None


def third_person(verb: str) -> str:
    """`get` as `gets`, `copy` as `copies`, `fetch` as `fetches`."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ies"
    return verb + ("es" if verb.endswith(("s", "sh", "ch", "x", "z", "o")) else "s")


def mentions(symbol: str, text: str) -> bool:
    """True when `text` gives `symbol` away: its last part (or a plain form of it) is one of the words."""
    name = symbol.rsplit(".", 1)[-1].lower()
    words = {w.lower() for w in re.findall(r"\w+", text)}
    return bool(words & {name, name + "s", name + "es", name.rstrip("s"), third_person(name), name.strip("_")})


def detail(sentence: str, about: str, first: str, *, alone: bool) -> str | None:
    """A question that `sentence` answers, about a thing or a text; None when no pattern fits it well.

    `first` is the passage's opening, whose answer must be another; `alone` says that nothing else follows it.
    """
    named = about.startswith("`")
    using = f"With {about}, what" if named else "What"
    early, late = _CONDITION.match(sentence), _LATE_CONDITION.match(sentence)
    effect, subject = _EFFECT.match(sentence), _SUBJECT.match(sentence)
    if _POINTS_ON.search(sentence):
        return None
    if early:
        return f"{using} happens {early[1].lower()} {early[2]}?"
    if effect and named:
        return _effect_question(effect, late, about, first)
    if subject and _is_subject(subject[1]):
        where = f" of {about}" if named else f" in {about}" if about else ""
        return f"What is said about {_decapitalized(subject[1])}{where}?"
    if late and late[1].split()[0].lower().strip(",") not in NO_SUBJECTS:
        return f"{using} happens {late[2]} {late[3]}?"
    if alone and named and _SAYS.search(sentence) and not re.match(r"(?:Is|Are|See|Example)\b", sentence):
        return f"Besides its purpose, what else is said about {about}?"
    return None


def _is_subject(words: str) -> bool:
    """True for a short noun phrase of its own, such as "The optional second argument"."""
    parts = words.lower().split()
    return len(parts) <= 6 and parts[0] not in NO_SUBJECTS and not _DANGLING.search(words.lower())


def _effect_question(effect: re.Match[str], late: re.Match[str] | None, about: str, first: str) -> str | None:
    """The question of a sentence that opens with its verb ("Returns …", "Raises … if …")."""
    verb = effect[1].lower().removesuffix(" to")
    plain = verb.removesuffix("s") if verb != "equivalent" else verb
    if plain == "raise" and late:
        return f"When does {about} raise{effect[2].split(f' {late[2]} ')[0].rstrip(',')}?"
    if plain == "raise":
        return f"Which exception does {about} raise?"
    if plain == "equivalent":
        return f"What is {about} equivalent to?"
    if late:
        return f"What does {about} {plain}{' to' * (plain == 'default')} {late[2]} {late[3]}?"
    if re.search(rf"\b{plain}", first, re.IGNORECASE):
        return None
    return f"What does {about} {plain}{' to' * (plain == 'default')}?"


def _blocks(paragraph: str) -> list[str]:
    """Runs of lines that belong together: another indent after a short or finished line starts a new block."""
    blocks: list[list[str]] = []
    previous, indent_before = "", 0
    for line in paragraph.splitlines():
        indent = len(line) - len(line.lstrip())
        moved = indent != indent_before and (len(previous.strip()) < 45 or previous.rstrip()[-1:] in ".:")
        if not blocks or moved or _LABEL.match(line.strip()):
            blocks.append([])
        blocks[-1].append(line.strip())
        previous, indent_before = line, indent
    return [" ".join(block) for block in blocks]


def _split(block: str, ends: re.Pattern[str]) -> list[str]:
    """Sentences of one line of prose; abbreviations do not end one."""
    parts: list[str] = []
    for piece in ends.split(" ".join(block.split())):
        if parts and _NO_END.search(parts[-1]):
            parts[-1] += " " + piece
        else:
            parts.append(piece)
    return [part.strip() for part in parts if part.strip()]


def _is_prose(sentence: str) -> bool:
    """True for a sentence of words: no code, no list item, no fragment, not overlong."""
    words = sentence.split()
    letters = sum(c.isalpha() or c in " `'_\"*" for c in sentence)
    return (
        3 <= len(words) <= MAX_SENTENCE_WORDS
        and letters >= 0.82 * len(sentence)
        and (sentence[0].isalpha() or sentence[0] in "`*")
        and ">>>" not in sentence
        and not _SIGNATURE.match(sentence)
        and not _LABEL.match(sentence)
        and sentence[-1] not in ":,;("
    )


def _says_something(sentence: str) -> bool:
    """True for a sentence with a verb, unlike the descriptions in a list of parameters."""
    first = sentence.split()[0].lower()
    return bool(_SAYS.search(sentence)) or first in VERBS or any(first[:-n] in VERBS for n in (1, 2))


def _telling_word(sentence: str, rarity: Callable[[str], float]) -> str | None:
    """The rarest longer word of a sentence, if it occurs once in it."""
    words = re.findall(r"[A-Za-z][A-Za-z-]{4,}", sentence)
    unique = [w for w in words if len(re.findall(re.escape(w), sentence, re.IGNORECASE)) == 1]
    return max(unique, key=lambda w: (rarity(w.lower()), w), default=None) if len(sentence.split()) >= 6 else None


def _decapitalized(text: str) -> str:
    """`text` with a small first letter, unless the word is a name or code."""
    word = text.split()[0]
    return text[0].lower() + text[1:] if word[1:].islower() or len(word) == 1 else text


def _end(sentence: str) -> str:
    """`sentence` with a full stop."""
    return sentence if sentence[-1] in ".!?" else sentence + "."
