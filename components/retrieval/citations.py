"""Turns the [k] marks of an answer into citations whose quote is provably a slice of the passage."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from components.data.english import NEGATIONS
from components.data.grounding import citation_marks, cut, without_citations
from components.data.judge import content_words, literals

MIN_SUPPORT = 0.5  # share of a claim's words that its quote has to hold for the citation to count as verified
# Text is often wrapped: a line ends a sentence only before an empty line, or after a colon or a parenthesis
# (a heading, a signature).
_BOUNDARY = re.compile(r"[.!?][\"')\]]*\s+|\n\s*\n|(?<=[:)])\n")


@dataclass(frozen=True)
class Citation:
    """One [k] mark that names a retrieved passage; ``text[start:end] == quote`` holds for its text."""

    marker: int
    passage_id: str
    title: str
    source: str
    score: float
    quote: str
    start: int
    end: int
    support: float
    verified: bool

    def row(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def cite(answer: str, passages: Sequence[Mapping[str, Any]]) -> tuple[list[Citation], list[int]]:
    """Return the citations of ``answer``, in order of first use, and the marks that name no passage.

    The quote is the sentence of the passage that holds most of the claim's words; ``support`` is that share. It proves
    the claim only if it has the claim's numbers, too, and denies what the claim denies and nothing else of it.
    A passage that is cited more than once is quoted for the claim that it supports best.
    """
    best: dict[int, Citation] = {}
    unknown: list[int] = []
    for mark, _, found in marks(answer, passages):
        if found is None:
            unknown.append(int(mark[1]))
        elif found.marker not in best or found.support > best[found.marker].support:
            best[found.marker] = found
    return list(best.values()), list(dict.fromkeys(unknown))


def marks(answer: str, passages: Sequence[Mapping[str, Any]]) -> list[tuple[re.Match[str], str, Citation | None]]:
    """Return each mark with its sentence and its citation, in their order; None where it names no passage."""
    found: list[tuple[re.Match[str], str, Citation | None]] = []
    for mark in citation_marks(answer):
        number, claim = int(mark[1]), claim_of(answer, mark.start(), mark.end())
        known = 1 <= number <= len(passages)
        found.append((mark, claim, _quote(claim, number, passages[number - 1]) if known else None))
    return found


def supported(claim: str, passages: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether a sentence of some passage supports the claim."""
    return any(_quote(claim, number, passage).verified for number, passage in enumerate(passages, 1))


@dataclass(frozen=True)
class Repair:
    """What was done about one mark that did not hold: moved to another passage, or dropped."""

    marker: int
    moved_to: int | None  # None: dropped, as no passage supports the claim
    claim: str

    def row(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def repaired(answer: str, passages: Sequence[Mapping[str, Any]]) -> tuple[str, list[Repair]]:
    """Return the answer with its wrong marks put right, and what was done; right ones stay as they are.

    A mark is wrong when no sentence of its passage supports its claim, or when it names no passage. It moves to the
    passage that supports the claim best, if one does, and goes otherwise: an answer without a mark says openly that
    nothing proves it. A mark that would come to stand beside its like goes, too.
    """
    made: list[Repair] = []
    parts: list[str] = []
    end = 0
    kept: set[tuple[str, int]] = set()  # (claim, passage) that are marked already
    for mark, claim, found in marks(answer, passages):
        if found is not None and found.verified:
            kept.add((claim, found.marker))
            continue
        best = max((_quote(claim, n, one) for n, one in enumerate(passages, 1)), key=_support, default=None)
        target = best.marker if claim and best is not None and best.verified else None
        made.append(Repair(int(mark[1]), target, claim))
        before = answer[end : mark.start()]
        if target is None or (claim, target) in kept:
            before, gap = before.rstrip(" "), answer[mark.end() :][:1]
            parts.append(before + (" " if before and gap and gap.isalnum() else ""))
        else:
            parts.append(f"{before}[{target}]")
            kept.add((claim, target))
        end = mark.end()
    text = "".join([*parts, answer[end:]])
    return (text.lstrip(" ") if made else answer), made


def _support(citation: Citation) -> float:
    return citation.support


def claim_of(answer: str, start: int, end: int) -> str:
    """Return the sentence that the mark at ``answer[start:end]`` is for, without marks.

    Where a mark opens the answer, marks precede what they prove ("[1] It sorts. [2] It reads."), else they
    follow it ("It sorts [1]." or "It sorts. [1]").
    """
    opening = citation_marks(answer.lstrip())
    if opening and opening[0].start() == 0:
        after = _bare(answer[end:]).strip()
        boundary = _BOUNDARY.search(after)
        return without_citations(after[: boundary.end()] if boundary else after).strip()
    before = _bare(answer[:start]).rstrip()
    inner = list(_BOUNDARY.finditer(before))
    return without_citations(before[inner[-1].end() :] if inner else before)


def _bare(text: str) -> str:
    return cut(text, citation_marks(text))


def spans(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of each sentence of ``text``, without surrounding space."""
    found, start = [], 0
    for boundary in [*_BOUNDARY.finditer(text), None]:
        end = len(text) if boundary is None else boundary.end()
        piece = text[start:end]
        if piece.strip():
            left = start + len(piece) - len(piece.lstrip())
            found.append((left, left + len(piece.strip())))
        start = end
    return found


def _quote(claim: str, number: int, passage: Mapping[str, Any]) -> Citation:
    text = passage["text"]
    named = content_words(passage.get("title") or "")
    claimed = content_words(claim)
    told = claimed - named or claimed  # a claim that only names the passage's subject is held to that
    facts = literals(passage.get("title") or "")
    start, end, support = (*(spans(text) or [(0, len(text))])[0], len(told & named) / len(told) if told else 0.0)
    agrees = _agrees(claim, text[start:end], facts)
    for left, right in spans(text):
        share = len(told & content_words(text[left:right])) / len(told) if told else 0.0
        fits = _agrees(claim, text[left:right], facts)
        if (fits and share >= MIN_SUPPORT, share) > (agrees and support >= MIN_SUPPORT, support):
            start, end, support, agrees = left, right, share, fits
    quote = text[start:end]
    return Citation(
        marker=number,
        passage_id=passage["passage_id"],
        title=passage.get("title") or "",
        source=passage.get("source") or "",
        score=float(passage.get("score") or 0.0),
        quote=quote,
        start=start,
        end=end,
        support=round(support, 3),
        verified=agrees and support >= MIN_SUPPORT,
    )


def _agrees(claim: str, quote: str, facts: set[str]) -> bool:
    """Whether a sentence with the claim's words can say the same: it has the claim's numbers, and denies no more.

    A claim that denies needs a sentence that does. What a sentence denies the claim may not say: not the word behind
    the negation, if that is one of the claim's.
    """
    if not literals(claim) <= literals(quote) | facts:
        return False
    mine, theirs = _denied(claim), _denied(quote)
    if mine is None or theirs is None:
        return mine is None and (theirs is None or not theirs & content_words(claim))
    return True


def _denied(text: str) -> set[str] | None:
    """The words right behind a text's negations, as content words; None where there is no negation."""
    words = [word.strip(".,;:()\"'`").replace("\u2019", "'") for word in text.split()]
    found = [n for n, word in enumerate(words) if word.lower() in NEGATIONS or word.lower().endswith("n't")]
    found = [n for n in found if words[n] != "None"]
    return set().union(*(content_words(" ".join(words[n + 1 : n + 3])) for n in found)) if found else None
