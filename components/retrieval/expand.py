"""Widens what was found: a passage with its neighbours, or with as much of its document as there is room for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from components.data import store

if TYPE_CHECKING:
    from components.retrieval.hits import Hit

Expand = Literal["none", "neighbours", "document"]
_COLUMNS = ["corpus", "doc_id", "start", "end", "text", "n_tokens"]


@dataclass(frozen=True)
class Stretch:
    """A run of passages of one document, by their places in its list."""

    first: int
    last: int


def expand(hits: "Sequence[Hit]", table: Any, how: Expand, max_tokens: int, where: str | None = None) -> "list[Hit]":
    """Return the hits with wider texts, best first; of hits of one document that came to overlap the first stays.

    Neighbours are the passage before and the one after; ``document`` goes on taking them in, by turns, as long as
    all have at most ``max_tokens`` tokens together. ``start`` and ``end`` span what the text is made of. White space
    between passages is no part of them, and comes back as one line break. What ``where`` hides stays hidden. A hit
    that is no passage of a document, as a summary of several, stays as it is.
    """
    if how == "none" or not hits:
        return list(hits)
    documents: dict[tuple[str, str], list[dict[str, Any]]] = {}
    condition = store.one_of("doc_id", sorted({hit.doc_id for hit in hits})) + (f" AND ({where})" if where else "")
    for row in store.rows(table, _COLUMNS, condition):
        documents.setdefault((row["corpus"], row["doc_id"]), []).append(row)
    for passages in documents.values():
        passages.sort(key=lambda row: (row["start"], row["end"]))
    taken: dict[tuple[str, str], list[Stretch]] = {}
    wide = []
    for hit in hits:
        if (hit.corpus, hit.doc_id) not in documents:
            wide.append(hit)
            continue
        passages = documents[hit.corpus, hit.doc_id]
        place = next(i for i, row in enumerate(passages) if (row["start"], row["end"]) == (hit.start, hit.end))
        stretch = widen(passages, place, 1 if how == "neighbours" else len(passages), max_tokens)
        before = taken.setdefault((hit.corpus, hit.doc_id), [])
        if any(stretch.first <= other.last and other.first <= stretch.last for other in before):
            continue
        before.append(stretch)
        own = passages[stretch.first : stretch.last + 1]
        wide.append(replace(hit, text=joined(own), start=own[0]["start"], end=max(row["end"] for row in own)))
    return wide


def widen(passages: Sequence[Mapping[str, Any]], place: int, steps: int, max_tokens: int) -> Stretch:
    """Return the stretch around ``place`` that takes up to ``steps`` passages on each side, after and before by turns.

    A side ends at the first passage that does not fit any more.
    """
    first = last = place
    room = max_tokens - passages[place]["n_tokens"]
    left = right = True
    for _ in range(steps):
        right = right and last + 1 < len(passages) and passages[last + 1]["n_tokens"] <= room
        if right:
            last += 1
            room -= passages[last]["n_tokens"]
        left = left and first > 0 and passages[first - 1]["n_tokens"] <= room
        if left:
            first -= 1
            room -= passages[first]["n_tokens"]
    return Stretch(first, last)


def joined(passages: Sequence[Mapping[str, Any]]) -> str:
    """Return the text that passages, in the order of their document, cover together; what they share comes once."""
    text, end = passages[0]["text"], passages[0]["end"]
    for row in passages[1:]:
        if row["end"] <= end:
            continue
        text += row["text"][end - row["start"] :] if row["start"] <= end else "\n" + row["text"]
        end = row["end"]
    return text
