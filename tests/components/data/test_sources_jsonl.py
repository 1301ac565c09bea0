"""JSON-lines corpora: every row is checked with its line number before anything starts."""

import json
from pathlib import Path

import pytest

from components.config import UserError
from components.data.sources import list_parts, read_part
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
