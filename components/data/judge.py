"""The programmatic judge: does an answer cite the right passage, agree with it, abstain when it should?

It compares words, so it is kept hard to fool: what the question already says earns nothing, negations and
literals must match, every citation must be the right one, and copying more than was asked is rambling.
"""

import re
from dataclasses import dataclass

from components.data.english import NEGATIONS, STOP_WORDS
from components.data.grounding import abstains, cited, without_citations
from components.data.records import Question

NAME_KINDS = frozenset({"which", "cloze"})
MIN_RECALL = 0.6  # share of the reference's own words that a right answer says
MIN_PRECISION = 0.6  # share of the answer's own words that the right passage holds
_WORD = re.compile(r"[A-Za-z_][\w]*(?:\.\w+)*|\d+(?:\.\d+)?")
_QUOTED = re.compile(r"`([^`]+)`")
_LITERALS = frozenset(["true", "false", "none"])


@dataclass(frozen=True)
class Judgement:
    """What the judge found; `score` is in [0, 1] and ranks candidates, the flags feed the metrics."""

    score: float
    grounded: bool  # answerable, right, cites the right passage only, does not ramble
    abstained: bool
    correct: bool  # says what the reference says, or abstains where nothing can be said
    rambles: bool


def judge(answer: str, question: Question) -> Judgement:
    """Judge `answer` against what the question's passages hold."""
    abstained = abstains(answer)
    if not question.answerable:
        long = len(answer.split()) > 60
        score = 1.0 if abstained else (0.1 if not cited(answer) and not long else 0.0)
        return Judgement(score, False, abstained, abstained, long)
    if abstained:
        return Judgement(0.2, False, True, False, False)
    rambles = is_rambling(answer, question.reference)
    cites = cited(answer) == [question.target]
    correct = agrees(answer, question)
    score = 0.5 + 0.3 * cites + 0.2 * (not rambles) if correct else 0.15 * cites
    return Judgement(round(score, 3), correct and cites and not rambles, False, correct, rambles)


def is_rambling(answer: str, reference: str) -> bool:
    """True when `answer` is much longer than `reference`, or repeats itself."""
    words, expected = without_citations(answer).lower().split(), without_citations(reference).split()
    if len(words) > 1.6 * len(expected) + 12:
        return True
    triples = list(zip(words, words[1:], words[2:], strict=False))
    return len(triples) >= 8 and len(set(triples)) < 0.75 * len(triples)


def agrees(answer: str, question: Question) -> bool:
    """True when `answer` says what the reference says and nothing that the right passage does not hold."""
    said = without_citations(answer)
    if question.kind in NAME_KINDS:
        return _names_only_the_right_one(said, question)
    passage = question.passages[question.target - 1]
    source = f"{passage.get('title') or ''} {passage['text']}"
    asked = content_words(question.question)
    expected = content_words(without_citations(question.reference)) - asked
    given = content_words(said) - asked
    if not expected or not given:
        return False
    supported = content_words(source)
    if negates(said) != negates(question.reference) or literals(said) - literals(source):
        return False
    recall = len(given & expected) / len(expected)
    return recall >= MIN_RECALL and len(given & supported) / len(given) >= MIN_PRECISION


def content_words(text: str) -> set[str]:
    """The words of `text` that carry meaning: lower case, without plural, past or -ing endings."""
    words = (word.lower().rstrip(".") for word in _WORD.findall(text))
    return {_stem(part) for word in words for part in word.split(".") if part and part not in STOP_WORDS}


def _stem(word: str) -> str:
    """A light stem, so that `returns`, `returned` and `return` are one word."""
    for ending in ("ing", "ies", "ed", "es", "s"):
        if word.endswith(ending) and len(word) - len(ending) >= 4:
            return word[: -len(ending)]
    return word.rstrip("e") if len(word) > 4 else word


def negates(text: str) -> bool:
    """True when `text` holds a negation (the literal None is not one)."""
    words = re.findall(r"[A-Za-z']+", text.replace("\u2019", "'"))
    return any(w != "None" and (w.lower() in NEGATIONS or w.lower().endswith("n't")) for w in words)


def literals(text: str) -> set[str]:
    """The numbers and the True, False, None that `text` states."""
    return {w.lower() for w in _WORD.findall(text) if w[0].isdigit() or w.lower() in _LITERALS}


def _names_only_the_right_one(said: str, question: Question) -> bool:
    """True when `said` holds the name that the reference quotes and none of the other passages' names."""
    quoted = _QUOTED.findall(question.reference)
    if not quoted:
        return False
    right, others = quoted[0], []
    if question.kind == "which":
        others = [p["title"] for i, p in enumerate(question.passages, 1) if i != question.target and p["title"]]
    short = [_last(name) for name in [right, *others]]
    names = [name if short.count(_last(name)) > 1 else _last(name) for name in [right, *others]]
    return _says(said, names[0]) and not any(_says(said, name) for name in names[1:] if name != names[0])


def _last(name: str) -> str:
    """The last dotted part of a name."""
    return name.rsplit(".", 1)[-1]


def _says(text: str, name: str) -> bool:
    """True when `text` holds `name` as a word of its own."""
    return bool(re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text, re.IGNORECASE))
