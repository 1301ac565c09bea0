"""What has gone from a corpus since it was indexed, as far as one reading of it can tell."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa


@dataclass
class Reading:
    """What a reading of all parts of a corpus has met.

    A passage that was not met has gone, unless it may be of something that could not be read this time. What a part
    may hold, its own key ``holds`` says: documents below its name after a slash (a folder), which needs no key, or
    after another mark (a module's dot), or ``any``, as rows of which nobody knows the names.
    """

    parts: Sequence[Mapping[str, Any]]
    _passages: set[str] = field(default_factory=set)
    _part_of: dict[str, int] = field(default_factory=dict)  # documents, of which at least a passage was met
    _unread: set[int] = field(default_factory=set)

    def note(self, rows: pa.Table) -> None:
        """Take in what came of some parts: rows as ``passages.ROW`` has them."""
        columns = (rows.column(name).to_pylist() for name in ("state", "part", "doc_id", "passage_id"))
        for state, part, doc_id, passage_id in zip(*columns, strict=True):
            if state == "failed":
                self._unread.add(part)
            elif state != "gone":
                self._passages.add(passage_id)
                self._part_of[doc_id] = part

    def unread(self) -> list[str]:
        """Return the names of the parts that could not be read."""
        return [str(self.parts[number]["doc_id"]) for number in sorted(self._unread)]

    def divided(self, known: Mapping[str, str]) -> tuple[list[str], list[str]]:
        """Return the passages of ``known`` (passage_id → doc_id) that have gone, and those that may be there yet."""
        unread = [self.parts[number] for number in self._unread]
        anything = any(part.get("holds") == "any" for part in unread)
        names = {part["doc_id"] for part in unread}
        above = tuple(f"{part['doc_id']}{part.get('holds', '/')}" for part in unread)

        @functools.cache
        def may_hold(doc_id: str) -> bool:
            """Return whether a document may be in a part that could not be read."""
            own = self._part_of.get(doc_id)
            if own is not None and own not in self._unread:  # it was read, to its end
                return False
            return anything or doc_id in names or doc_id.startswith(above)

        gone: list[str] = []
        left: list[str] = []
        for passage_id, doc_id in known.items():
            if passage_id not in self._passages:
                (left if may_hold(doc_id) else gone).append(passage_id)
        return gone, left
