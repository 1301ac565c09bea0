"""Passages that say otherwise than what an answer cites: nearly the same words, but another number or a "not"."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from components.data.judge import content_words, literals, negates
from components.retrieval.citations import Citation, spans

MIN_SHARED = 0.6  # of both sentences' words: about one thing
_MIN_WORDS = 3  # that they share besides numbers


@dataclass(frozen=True)
class Conflict:
    """A cited quote, and a sentence of another passage that says otherwise; ``text[start:end] == quote`` there."""

    marker: int  # of the citation
    other: int  # number of the other passage
    passage_id: str  # of the other
    source: str
    quote: str
    start: int
    end: int

    def row(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def conflicts(citations: Sequence[Citation], passages: Sequence[Mapping[str, Any]]) -> list[Conflict]:
    """Return what other passages have against the quotes of citations that hold.

    Passages about different named things are not compared: two functions may well have different defaults. It goes by
    words: what is said in others is not seen.
    """
    found = []
    for citation in citations:
        own = passages[citation.marker - 1]
        for number, other in enumerate(passages, 1):
            if not citation.verified or number == citation.marker or not _of_one_thing(own, other):
                continue
            text = other["text"]
            for start, end in spans(text):
                if contradicts(citation.quote, text[start:end]):
                    place = (other["passage_id"], other.get("source") or "", text[start:end], start, end)
                    found.append(Conflict(citation.marker, number, *place))
    return found


def contradicts(left: str, right: str) -> bool:
    """Return whether two sentences share most of their words, and differ in a number, True, False, None or a "not"."""
    ours, theirs = literals(left), literals(right)
    words, others = content_words(left) - ours, content_words(right) - theirs
    shared = words & others
    if len(shared) < _MIN_WORDS or len(shared) < MIN_SHARED * len(words | others):
        return False
    return bool(ours - theirs and theirs - ours) or negates(left) != negates(right)


def _of_one_thing(own: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    named = [passage.get("symbol") for passage in (own, other)]
    return not all(named) or named[0] == named[1]
