"""The one grounded prompt: training data, evaluation and serving all build it here.

Passages come first and the question last, so that questions over the same passages share their
prefix in the engine's KV cache.
"""

import re
from collections.abc import Sequence

ABSTENTION = "I don't know."
SYSTEM = (
    "Cite the numbered passage that proves the answer, like [2], then answer from it in one sentence. "
    f"If no passage holds the answer, reply exactly: {ABSTENTION}"
)
MAX_ABSTENTION_WORDS = 16

_CITATION = re.compile(r"\[(\d{1,2})\]")
_CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
_ABSTENTION = re.compile(r"^(?:i'?m sorry,?\s*(?:but\s+)?|sorry,?\s*(?:but\s+)?)?i (?:don't|do not) know\b")


def shown(text: str, title: str | None = None) -> str:
    """One passage as the prompt shows it: on one line, after its title unless its text opens with it."""
    line = " ".join(text.split())
    head = " ".join((title or "").split()).rstrip(" .:")
    return line if not head or line.startswith(head) else f"{head}: {line}"


def passages_block(passages: Sequence[str]) -> str:
    """The numbered passages, which are the part of the prompt that several questions share."""
    return "\n".join(f"[{number}] {' '.join(text.split())}" for number, text in enumerate(passages, 1))


def grounded_messages(question: str, passages: Sequence[str]) -> list[dict]:
    """The chat messages that ask `question` over `passages` (as given by `shown`), numbered from 1."""
    content = f"Passages:\n{passages_block(passages)}\n\nQuestion: {question}"
    return [{"role": "system", "content": SYSTEM}, {"role": "user", "content": content}]


def cite(number: int, claim: str) -> str:
    """An answer that cites passage `number` for `claim`.

    The citation comes first: whether to answer, and from which passage, are then one token each, decided before
    a word is copied. With the citation last, the many ways in which answers begin share the probability of
    answering among them, and a greedy decoder abstains although answering is likelier.
    """
    return f"[{number}] {claim}"


def cited(answer: str) -> list[int]:
    """The numbers of the passages that `answer` cites, in order of first use and without repeats."""
    return list(dict.fromkeys(int(mark[1]) for mark in citation_marks(answer)))


def citation_marks(answer: str) -> list[re.Match[str]]:
    """The marks [k] in an answer, in their order; in code, between backticks, such a thing is an index."""
    code = [found.span() for found in _CODE.finditer(answer)]
    marks = _CITATION.finditer(answer)
    return [mark for mark in marks if not any(begin < mark.start() < end for begin, end in code)]


def without_citations(answer: str) -> str:
    """`answer` without its citation marks."""
    return " ".join(cut(answer, citation_marks(answer), " ").split()).replace(" .", ".")


def cut(text: str, marks: Sequence[re.Match[str]], instead: str = "") -> str:
    """`text` with `instead` in the place of each of its `marks`."""
    ends = [0, *(mark.end() for mark in marks)]
    starts = [*(mark.start() for mark in marks), len(text)]
    return instead.join(text[end:start] for end, start in zip(ends, starts, strict=True))


def abstains(answer: str) -> bool:
    """True when `answer` says that it does not know, and neither cites nor goes on to claim something."""
    plain = " ".join(answer.replace("\u2019", "'").lower().split())
    return bool(_ABSTENTION.match(plain)) and not cited(answer) and len(plain.split()) <= MAX_ABSTENTION_WORDS
