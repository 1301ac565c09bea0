"""JSON-lines corpora: every row is checked with its line number before anything starts."""

import json
import tracemalloc
from pathlib import Path

import pytest

from components.config import UserError
from components.data.sources import Unreadable, list_parts, read_part
from components.data.sources.jsonl import Jsonl


def _documents(path: Path, **keys: str):
    parts = list_parts(Jsonl(name="jsonl", path=str(path), **keys))
    return parts, [document for part in parts for document in read_part("jsonl", part)]


def test_rows_become_documents_and_other_keys_metadata(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"text": "Ein Text\u2028mit Trenner", "id": 7, "title": "T", "group": "g", "source": "s", "year": 1999},
        {"text": "another"},
    ]
    path.write_text("\n".join(["", json.dumps(rows[0], ensure_ascii=False), "  ", json.dumps(rows[1])]))
    _, (first, second) = _documents(path)
    assert (first.doc_id, first.text, first.title, first.group, first.source) == ("7", rows[0]["text"], "T", "g", "s")
    assert json.loads(first.metadata) == {"year": 1999}
    assert second.source == f"rows.jsonl#{second.doc_id}" and second.title == second.doc_id


def test_a_row_keeps_its_name_when_lines_move(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "b"}\n')
    _, before = _documents(path)
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    _, after = _documents(path)
    assert after[1].doc_id == before[0].doc_id


def test_a_long_file_is_read_in_parts_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"body": f"text {n} ü", "key": n}) + "\n" for n in range(1203)))
    parts, documents = _documents(path, text="body", id="key")
    assert len(parts) == 3
    assert [document.doc_id for document in documents] == [str(n) for n in range(1203)]


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (['{"text": "a"}', '{"text": '], "rows.jsonl, line 2: not valid JSON"),
        (["", "[1]"], "line 2: expected a JSON object, got list"),
        (['{"body": "a"}'], r"line 1: no text under the key 'text' \(its keys: body\)"),
        (['{"text": 3}'], "line 1: no text"),
        (['{"text": " "}'], "line 1: no text"),
        (['{"text": "a", "id": 1}', '{"text": "b", "id": "1"}'], "line 2: the same id or text as line 1"),
        (['{"text": "a", "title": {}}'], "line 1: 'title' must be text or a number, got dict"),
        ([""], "holds no rows"),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path: Path, lines: list[str], says: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines))
    with pytest.raises(UserError, match=says):
        list_parts(Jsonl(name="jsonl", path=str(path)))


def test_bytes_that_are_no_text_are_named_by_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"text": "a"}\n{"text": "\xff"}\n')
    with pytest.raises(UserError, match="line 2: not valid JSON"):
        list_parts(Jsonl(name="jsonl", path=str(path)))


def test_a_missing_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        list_parts(Jsonl(name="jsonl", path=str(tmp_path / "nowhere.jsonl")))
    with pytest.raises(UserError, match="is a folder"):
        list_parts(Jsonl(name="jsonl", path=str(tmp_path)))


def test_wrong_rows_are_put_aside_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        '{"text": "a", "id": 1}',
        '{"text": ',
        "",
        '{"text": "b", "id": 1}',
        '{"text": "c\\u0000"}',
        '{"text": "d"}',
    ]
    path.write_text("\n".join(lines))
    parts = list_parts(Jsonl(name="jsonl", path=str(path), wrong_rows="quarantine"))
    said = {part["doc_id"]: part["error"] for part in parts if "error" in part}
    assert [name.rpartition(" ")[2] for name in said] == ["2", "4", "5"]
    assert "the same id or text as line 1" in said["rows.jsonl, line 4"]
    assert "zero characters" in said["rows.jsonl, line 5"]
    documents = [document for part in parts if "error" not in part for document in read_part("jsonl", part)]
    assert [document.text for document in documents] == ["a", "d"]
    with pytest.raises(Unreadable, match="not valid JSON"):
        next(read_part("jsonl", next(part for part in parts if "error" in part)))


def test_a_line_of_many_megabytes_is_named_in_bounded_memory(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with path.open("wb") as stream:
        stream.write(b'{"text": "a"}\n[')
        for _ in range(100):
            stream.write(b"0," * 500_000)
        stream.write(b'0]\n{"text": "b"}\n')
    tracemalloc.start()
    with pytest.raises(UserError, match="line 2: it is longer than 16 MiB"):
        list_parts(Jsonl(name="jsonl", path=str(path)))
    parts = list_parts(Jsonl(name="jsonl", path=str(path), wrong_rows="quarantine"))
    documents = [document for part in parts if "error" not in part for document in read_part("jsonl", part)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [document.text for document in documents] == ["a", "b"]
    assert peak < 64e6


def test_dates_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "a", "on": "2026-03-01"}\n{"text": "b"}\n')
    _, (first, second) = _documents(path, date="on")
    assert (first.date, second.date, first.metadata) == ("2026-03-01", None, "{}")
    path.write_text('{"text": "a", "on": "yesterday"}\n')
    with pytest.raises(UserError, match="line 1: 'on' must be a date as 2026-03-01, got 'yesterday'"):
        _documents(path, date="on")
