"""The answer in what a model wrote, and whether two answers are the same one."""

import json
import re

from components.reasoning.quantities import Quantity, read_quantity

# A phrase that announces the answer; what stands behind the last one counts.
_ANNOUNCED = re.compile(
    r"####|\\boxed\s*(?=\{)|\b(?:final\s+answer|answer)\b\s*(?:\((?:[^()]{0,40})\)\s*)?(?:is|was|are|=|:)+\s*:?|"
    r"\bA:(?=\s)",
    re.IGNORECASE,
)
_LETTER = re.compile(r"[\s(\[*]*([A-Za-z])[\s)\].:*]*")
_OPTION = re.compile(r"(?:^|\s|\()([A-Z])(?:(\))|\.|:)\s+", re.MULTILINE)
# Marks of emphasis stand at the edges of words: those of 4*3 and read_csv are part of what is said.
_EMPHASIS = re.compile(r"`+([^`]+)`+|^[\s*`]+|[\s*`]+$|(?<![\w*_`])[*_`]+(?=\S)|(?<=\S)[*_`]+(?![\w*_`])")
# A minus with a number or word before it is an operator and no sign: 24 in 48-24.
_NUMBER = re.compile(
    r"(?<![\w.])[-−–]?[$€£]?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:\s?/\s?\d+)?|\.\d+)(?:\s?%)?(?!\w)"
)
# The marks of passages behind what they prove; a list of numbers that a sentence names is none.
_CITED = re.compile(
    r"(?<=[\w.,;)\"'`])(?<!\bis)(?<!\bare)(?<!\bbe)(?<!\bin)(?<!list)(?<!interval)(?<!range)(?<!set)(?<!tuple)"
    r"(?<!array)(?<!numbers)(?<!result)(?<!answer)\s+(?:\[\d+(?:,\s*\d+)*\])+"
)
# What makes a number a part of something else: a formula, or a comparison.
_FORMULA = re.compile(r"[^\w\s,.;:!?'\"’“”$€£%°-]|_|[-–−]\s*$")
_COMPARED = re.compile(
    r"\b(?:not|no|never|less|more|fewer|least|most|half|twice|double|than|root|log|ln|sin|cos|tan|pi|or|over|under|"
    r"minus|plus|times|divided|squared|cubed|wrong|incorrect|\w*n['’]t)\b",
    re.IGNORECASE,
)
_AGAINST = {"not", "no", "never", "wrong", "incorrect", "false", "than"}
# Where the sentence of an announced answer may end; `_ended` says whether it does.
_END = re.compile(r"(?<=\S)[.!?](?=\s|$)|\s[-–—]\s|;|,\s(?=[a-z])|\s(?:because|since)\s")
_CLAUSE = re.compile(
    r"(?:because|since|as|so|but|which|who|whose|where|when|while|though|although|if|given|not|it|he|she|they|we|you|i|"
    r"there|this|that)\b"
)
_ABBREVIATED = re.compile(r"(?:^|[\s.])(?:Mr|Mrs|Ms|Dr|Prof|St|Mt|Ft|Jr|Sr|Gen|Col|Capt|Lt|Sgt|Rev|Gov|Sen)$")
_INITIAL = re.compile(r"(?:^|[\s.])[A-Z]$")
_NAME = re.compile(r"\s+(?!(?:The|It|This|That|There|He|She|They|We|In|As|If|So|Because|Since)\b)[A-Z](?:[a-z]|\.)")
# What makes a sentence of a line with a number, however short it is.
_SAYS = re.compile(r"\b(?:is|are|was|were|be|has|have|had|will|would|of|it|we|he|so|no)\b|[→⇒]|[-=]>", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d_]{3,}")
_COMMAND = re.compile(r"\\[A-Za-z]+")  # of LaTeX
_GOES_ON = {"is", "was", "has", "had", "will", "would", "because", "since"}
_NEGATED = re.compile(r"\b(is|was|are)n['’]t\b", re.IGNORECASE)
# What makes a formula, or a name such as C#, another one; emphasis and exclamations are no such signs.
_SIGNS = re.compile(r"([<>=∞]|!(?==)|(?<=\b\w)!|(?<=\))!|(?<=\w)#|(?<=[\w)])\s*[*^/]+\s*(?=[\w(]))")
_ASCII = str.maketrans({"≤": "<=", "≥": ">=", "≠": "!=", "×": "*", "÷": "/"})
_EXCLUDED = re.compile(r"\bnot\s+(?:option\s+|choice\s+)?(?:\([A-Z]\)|[A-Z]\b)")
_YES_OR_NO = re.compile(r"[\s*_`\"'“]*(yes|no)\b(?=[\s*_`\"'”]*(?:[.,!;:—–\n]|$))", re.IGNORECASE)
_SECOND = re.compile(r"^\s*\(?B[).:]", re.MULTILINE)
_MATHEMATICS_S = 30  # its first use reads its grammar
_LATEX = re.compile(r"\\(?:d?frac|sqrt|text|left|right|pi|cdot|times|boxed|infty|[{}])")


def extract(text: str, choices: int = 0) -> str:
    """Return the final answer in a text as it is written there; empty where there is none.

    What an announcement (`#### 72`, `\\boxed{72}`, `the answer is 72`, `Answer: 72`, a JSON object's "answer") names
    comes first, the last of several. Without one a text that is no sentence (2024-05-17, 5 miles, \\frac{1}{2}) is the
    answer itself; in a sentence it is the last number, and in one without numbers the yes or no that it begins with, or
    the last line.

    Args:
        choices: how many lettered options the question has; the answer is then a letter, or empty.
    """
    if (named := _from_json(text)) is not None:
        return _letter(named, choices, announced=True) if choices else named
    return _extracted(_CITED.sub("", text), choices) or _extracted(text, choices)


def _extracted(text: str, choices: int) -> str:
    said = _announced(text, choices)
    if choices:
        return _letter(said if said is not None else text, choices, announced=said is not None)
    if said is not None:
        return said
    numbers = _NUMBER.findall(text)
    if numbers:
        if (alone := _alone(text)) is not None:
            return alone
        return numbers[-1]
    if begun := _YES_OR_NO.match(text):
        return begun[1]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return _bare(_plain(lines[-1])) if lines and not _ANNOUNCED.search(text) else ""


def same(one: str, other: str, *, mathematics: bool = False) -> bool:
    """Return whether two answers say the same: equal quantities, equal letters, or equal words.

    0.5, 1/2 and 50 % are the same, and so are 1,200 and $1200.00 or 5 and 5 apples; 5 km and 5 miles are not, nor are
    two apples and two pears.

    Args:
        mathematics: compare what is in LaTeX by math-verify, which needs the process's main thread (its time limit is
            a signal) and seconds at its first use: for evaluations, not for a server that answers.
    """
    if one.strip() == other.strip():
        return bool(one.strip())
    first, second = read_quantity(one), read_quantity(other)
    if (first is None) != (second is None):  # one of them may be a sentence around its number
        first, second = first or _only_quantity(one), second or _only_quantity(other)
    if first is not None and second is not None:
        return first.same(second)
    if mathematics and (_LATEX.search(one) or _LATEX.search(other)):
        return _same_mathematics(one, other)
    mine, theirs = key(one), key(other)
    return mine == theirs != "" or _begins(mine, theirs) or _begins(theirs, mine)


def known(answer: str, choices: int = 0) -> str:
    """Return the answer in what a file gives as the right one: what it announces, else all of it as it stands.

    Args:
        choices: as for ``extract``; the letter of an option that is written with its text.
    """
    letter = extract(answer, choices) if choices else ""
    return letter or _from_json(answer) or _announced(answer) or _right_side(answer) or answer.strip()


def key(answer: str) -> str:
    """Return what equal answers have in common as text: their words in lower case, without articles and marks.

    Signs of formulas stay, each apart from the words beside it.
    """
    letter = _LETTER.fullmatch(answer)
    if letter:
        return letter[1].lower()
    words: list[str] = []
    for place, told in enumerate(_SIGNS.split(answer.lower().translate(_ASCII))):
        words += [told.strip()] if place % 2 else re.sub(r"[^\w\s.+-]|(?<!\d)\.|\.(?!\d)", " ", told).split()
    return " ".join(word for word in words if word not in ("a", "an", "the"))


def options(question: str) -> int:
    """Return how many lettered options a question lists, A first and none left out; 0 where it lists none.

    Without brackets the list begins with a line, or behind a question or a colon: Plan A. and Team B: are no options.
    """
    count, opened = 0, False
    for option in _OPTION.finditer(question):
        before = question[: option.start(1)].rstrip(" \t*")
        opened = opened or (option[1] == "A" and (not before or before[-1] in "\n?:"))
        if (option[2] or opened) and ord(option[1]) - ord("A") == count:
            count += 1
    return count if count >= 2 else 0


def _only_quantity(text: str) -> Quantity | None:
    """The quantity in a sentence of words around one number, with the unit behind it where that is one."""
    found = list(_NUMBER.finditer(text))
    if len(found) != 1:
        return None
    before, behind = text[: found[0].start()], text[found[0].end() :]
    if _FORMULA.search(before) or _FORMULA.search(behind) or behind.startswith("-") or _COMPARED.search(text):
        return None
    return read_quantity(text[found[0].start() :]) or read_quantity(found[0][0])


def _right_side(text: str) -> str | None:
    """The quantity that an equation comes to: 8 in 15 - 7 = 8; none where it is no such equation."""
    before, equals, behind = text.rpartition("=")
    value = _bare(_plain(behind))
    is_part = before.rstrip().endswith(("<", ">", "!", "=", ":")) or before.count("(") > before.count(")")
    if not equals or is_part or re.search(r"\b(?:or|and)\b|,\s", before) or read_quantity(value) is None:
        return None
    return value


def _begins(answer: str, sentence: str) -> bool:
    """Whether a sentence says an answer of words and goes on about it: Ann, and Ann is the tallest."""
    rest = sentence.removeprefix(answer + " ").split() if len(answer) > 1 else []
    goes_on = sentence.startswith(answer + " ") and bool(rest) and rest[0] in _GOES_ON
    return goes_on and not _AGAINST & set(rest)


def _announced(text: str, choices: int = 0) -> str | None:
    """What the last announcement names; none where there is no announcement, or nothing behind it."""
    text = _NEGATED.sub(r"\1 not", text)
    for announcement in reversed(list(_ANNOUNCED.finditer(text))):
        if choices and announcement[0] == "A:" and _SECOND.search(text):  # an option and its text
            continue
        rest = text[announcement.end() :]
        if announcement[0].startswith("\\boxed"):
            named = _in_braces(rest)
        else:
            lines = [line.strip() for line in rest.splitlines() if line.strip()]
            named = _named(lines[0], choices) if lines else ""
        if named:
            return named
    return None


def _alone(text: str) -> str | None:
    """The answer that a text of one line is as a whole: a quantity, or a formula; none where it says more."""
    text = text.strip()
    if "\n" in text or _SAYS.search(text):
        return None
    if (value := _right_side(text)) is not None:
        return value
    plain = _bare(_plain(text))
    is_formula = _WORD.search(_COMMAND.sub(" ", plain)) is None
    return plain if is_formula or read_quantity(plain) is not None else None


def _named(line: str, choices: int) -> str:
    """The answer at the start of what follows an announcement, up to the end of its sentence."""
    line = _plain(line).removeprefix(":").strip()
    boxed = re.match(r"\$?\\boxed\s*", line)
    if boxed:
        return _in_braces(line[boxed.end() :])
    ends = [end for end in _END.finditer(line) if choices or _ended(line, end)]
    dashes = [end for end in ends if "-" in end[0]]
    sentence = line[: min((end.start() for end in ends if end not in dashes), default=len(line))]
    if not choices and (value := _right_side(_bare(sentence))) is not None:
        return value
    return _bare(sentence[: min((end.start() for end in dashes), default=len(line))])


def _ended(line: str, end: re.Match[str]) -> bool:
    """Whether a mark ends an answer, and does not belong to it: Dr. Smith, red, green and blue, 15 - 7."""
    before, behind = line[: end.start()], line[end.end() :]
    if end[0] == ".":
        return not (_ABBREVIATED.search(before) or (_INITIAL.search(before) and _NAME.match(behind)))
    if end[0].startswith(","):
        is_short = read_quantity(before) is not None or _YES_OR_NO.fullmatch(before) is not None
        return is_short or _CLAUSE.match(behind) is not None
    if end[0].strip() in ("-", "–", "—"):
        return re.search(r"(?:\d|\)|\b[A-Za-z])$", before) is None or re.match(r"[\d(]|[A-Za-z]\b", behind) is None
    return True


def _plain(text: str) -> str:
    """A text without emphasis; what stands between backticks stays as it is."""
    return _EMPHASIS.sub(lambda mark: mark[1] or "", text).strip()


def _bare(text: str) -> str:
    """A text without dollar signs of LaTeX around it, quotes and closing marks."""
    text = text.strip()
    if len(text) > 2 and text.startswith("$") and text.endswith("$"):
        text = text[1:-1]
    text = text.strip().strip("\"'“”").strip()
    return text if re.fullmatch(r"[A-Z]\.", text) is None and text.endswith("...") else text.rstrip(".!,;: ")


def _in_braces(text: str) -> str:
    """What stands in the braces that a text begins with; empty where they are not closed."""
    depth = 0
    for place, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return text[1:place].strip() if place else ""
    return ""


def _from_json(text: str) -> str | None:
    """The "answer" of a JSON object that is the whole text, or stands in a code block at its end."""
    block = re.search(r"```(?:json)?\s*(\{.*\})\s*```\s*$", text, re.DOTALL)
    try:
        value = json.loads(block[1] if block else text)
    except (ValueError, RecursionError):
        return None
    answer = value.get("answer") if isinstance(value, dict) else None
    return None if answer is None or isinstance(answer, (dict, list)) else str(answer).strip()


def _letter(said: str, choices: int, *, announced: bool) -> str:
    """The option that a text names: by a letter alone, as in (B) or B. or option B; empty for one that is not there."""
    last, said = chr(ord("A") + choices - 1), _EXCLUDED.sub("", said)
    alone = _LETTER.fullmatch(said)
    if alone:
        letter = alone[1].upper()
        return letter if letter <= last else ""
    marked = re.findall(rf"\(([A-{last}])\)|\b(?:option|choice)\s+([A-{last}])\b|^\s*([A-{last}])[).:]", said, re.M)
    found = [next(filter(None, groups)) for groups in marked]
    if not found and announced:
        found = re.findall(rf"(?<![\w'])([A-{last}])(?![\w'])", said)[:1]
    return found[0] if announced and found else found[-1] if found else ""


def _same_mathematics(one: str, other: str) -> bool:
    """Whether math-verify, a parser of LaTeX over sympy, finds two expressions equal within its time."""
    from math_verify import parse, verify

    def read(text: str) -> list:
        return parse(text if text.startswith("$") else f"${text}$", parsing_timeout=_MATHEMATICS_S)

    return bool(verify(read(one), read(other), timeout_seconds=_MATHEMATICS_S))
