"""Which passages have gone, and which may be of something that could not be read this time."""

from typing import Any

import pyarrow as pa
import pytest

from components.retrieval.vanished import Reading


def _reading(parts: list[dict[str, Any]], *rows: tuple[int, str, str, str | None]) -> Reading:
    """A reading of ``parts`` that met ``rows``: part, state, doc_id, passage_id."""
    reading = Reading(parts)
    names = ("part", "state", "doc_id", "passage_id")
    for row in rows:  # in as many batches: they come in any order
        reading.note(pa.table({name: [value] for name, value in zip(names, row, strict=True)}))
    return reading


def _part(name: str, **more: str) -> dict[str, Any]:
    return {"doc_id": name, **more}


ROWS = [_part("rows.jsonl from line 1", holds="any"), _part("rows.jsonl, line 7", holds="any")]


def test_what_was_not_met_has_gone() -> None:
    reading = _reading([_part("a.txt")], (0, "same", "a.txt", "1"), (0, "new", "a.txt", "3"))
    assert reading.divided({"1": "a.txt", "2": "a.txt", "4": "b.txt"}) == (["2", "4"], [])
    assert reading.unread() == []


def test_an_edited_row_is_replaced_while_another_one_cannot_be_read() -> None:
    """Row 5 was edited: its old passage has gone. Of row 6, which was not met, the row in line 7 may be an edition."""
    reading = _reading(ROWS, (0, "new", "row 5", "5b"), (1, "failed", "rows.jsonl, line 7", None))
    assert reading.divided({"5a": "row 5", "6": "row 6"}) == (["5a"], ["6"])
    assert reading.unread() == ["rows.jsonl, line 7"]


def test_a_part_that_failed_on_its_way_leaves_its_documents_as_they_were() -> None:
    reading = _reading([_part("a.pdf")], (0, "failed", "a.pdf", None), (0, "same", "a.pdf", "1"))
    assert reading.divided({"1": "a.pdf", "2": "a.pdf"}) == ([], ["2"])


@pytest.mark.parametrize(
    ("part", "may_hold", "may_not"),
    [
        (_part("sub"), ["sub", "sub/a.txt", "sub/deeper/a.txt"], ["subway/a.txt", "sub.txt", "a.txt"]),
        (_part("README"), ["README"], ["README.md"]),
        (_part("json", holds="."), ["json", "json.dumps"], ["jsonl.dumps", "json/dumps"]),
    ],
)
def test_what_may_be_in_a_part(part: dict[str, Any], may_hold: list[str], may_not: list[str]) -> None:
    reading = _reading([part], (0, "failed", part["doc_id"], None))
    known = {doc_id: doc_id for doc_id in (*may_hold, *may_not)}
    assert reading.divided(known) == (may_not, may_hold)


def test_a_part_without_text_any_more_holds_nothing() -> None:
    assert _reading([_part("a.txt")], (0, "gone", "a.txt", None)).divided({"1": "a.txt"}) == (["1"], [])
