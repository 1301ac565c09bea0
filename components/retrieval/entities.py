"""The names in a text, by its typography: identifiers, quoted code, capitalised names. No model is asked."""

import re

from components.data.english import STOP_WORDS

_CODE = re.compile(r"`{1,2}([^`\n]{2,60})`{1,2}")
_IDENTIFIER = re.compile(
    r"(?<![\w.])(?:[A-Za-z_]\w*\.)+[A-Za-z_]\w*"  # dotted: os.path.join
    r"|(?<![\w.])[A-Za-z]\w*_\w+"  # snake_case
    r"|(?<![\w.])[A-Za-z]\w+(?=\(\))"  # called: copy2()
    r"|(?<![\w.])[A-Z][a-z0-9]+(?:[A-Z][A-Za-z0-9]*)+"  # CamelCase: OrderedDict, OSError
    r"|(?<![\w.])[A-Z]{2,}[A-Za-z0-9]*"  # capitals: OSError, TCP, NASA
)
# Two or more capitalised words, perhaps with "of" or "de" between them: "Bank of England".
_NAME = re.compile(r"\b[A-Z][a-z]+(?:(?: (?:of|the|de|von|van))? [A-Z][a-z]+)+")
_PLAIN_NAME = re.compile(r"[A-Za-z_][\w.]*")
_MAX_WORDS = 5


def entities(text: str) -> set[str]:
    """Return the names in ``text``, lower case; of a dotted name its last part, too.

    A name counts wherever it is written so that it looks like one, at the head of a sentence as well; what that
    brings in wrongly ("The Sun") is in too many passages or in one only, and a graph leaves it out for that.
    """
    found: set[str] = set()
    for code in _CODE.findall(text):
        if _PLAIN_NAME.fullmatch(name := code.strip().removesuffix("()")):
            found |= forms(name)
    for identifier in _IDENTIFIER.findall(text):
        found |= forms(identifier)
    for name in _NAME.findall(text):
        words = name.split()
        words = words[1:] if words[0].lower() in STOP_WORDS else words
        if 2 <= len(words) <= _MAX_WORDS:
            found.add(" ".join(words).lower())
    return found


def forms(name: str) -> set[str]:
    """Return a qualified name as it may be written: whole, and its last part where that is longer than one letter."""
    whole = name.strip(".").lower()
    last = whole.rsplit(".", 1)[-1]
    return {whole, last} if len(last) > 1 else {whole}
