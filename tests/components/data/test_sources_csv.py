"""CSV corpora: a row a document, columns by config, wrong rows by line."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from components.config import UserError, parse
from components.data.sources import Unreadable, list_parts, read_part
from components.data.sources.csv import Csv


def _documents(path: Path, **keys):
    parts = list_parts(Csv(name="csv", path=str(path), **keys))
    return parts, [document for part in parts if "error" not in part for document in read_part("csv", part)]


def test_rows_become_documents_and_other_columns_metadata(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b'\xef\xbb\xbfid,text,title,year,on\r\n7,"Two\r\nlines, ""quoted""",T,1999,2026-03-01\r\n\r\n8,x,,,\r\n'
    )
    _, (first, second) = _documents(path, date="on")
    assert (first.doc_id, first.text, first.title) == ("7", 'Two\r\nlines, "quoted"', "T")
    assert (json.loads(first.metadata), first.date, first.source) == ({"year": "1999"}, "2026-03-01", "rows.csv#7")
    assert (second.doc_id, second.title, second.date, second.metadata) == ("8", "8", None, "{}")


def test_several_columns_make_the_text_and_cells_have_their_own_delimiter(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    path.write_bytes("question\tanswer\nWhy?\tDaß es so ist.\nHow?\t\n".encode("latin-1"))
    keys = {"text": ["question", "answer"], "delimiter": "\t", "encoding": "latin-1"}
    _, documents = _documents(path, **keys)
    assert [document.text for document in documents] == ["question: Why?\nanswer: Daß es so ist.", "question: How?"]
    assert parse(Csv, {"name": "csv", "path": "x", "text": "body"}).text == ["body"]


def test_a_long_file_is_read_in_parts_without_loss(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "id"])
        writer.writerows([f"text {n}\nü,", n] for n in range(1203))
    parts, documents = _documents(path)
    assert len(parts) == 3
    assert [(document.doc_id, document.text) for document in documents] == [
        (str(n), f"text {n}\nü,") for n in range(1203)
    ]


CELL = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(CELL.filter(str.strip), CELL), min_size=1, max_size=20, unique_by=lambda row: row[0]))
def test_what_the_csv_module_writes_is_read_back(rows: list[tuple[str, str]], tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, quoting=csv.QUOTE_ALL)
        writer.writerow(["text", "note"])
        writer.writerows(rows)
    _, documents = _documents(path)
    assert [document.text for document in documents] == [text for text, _ in rows]
    notes = [json.loads(document.metadata).get("note", "") for document in documents]
    assert notes == [note if note.strip() else "" for _, note in rows]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("id,body\n1,a\n", r"no column 'text' \(its columns: id, body\)"),
        ("text,text\na,b\n", "two columns named 'text'"),
        ("text,id\na,1\nb\n", "line 3: it has 1 cells, and the header has 2"),
        ("text,id\na,1\n ,2\n", "line 3: no text"),
        ('text,id\n"a\nb",1\nc,1\n', "line 4: the same id or text as line 2"),
        ('text,id\na,1\n"b,2\nc,3\n', "line 3: .*does a quote that opens there end"),
        ('text,id\na,1\n"b"c,2\n', "line 3: .*does a quote that opens there end"),
        ("text,id\n", "holds no rows"),
        ("", "holds no header"),
        ("text,id\na\0b,1\n", "line 2: "),
    ],
)
def test_a_wrong_row_is_named_by_file_and_line(tmp_path: Path, content: str, says: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=says):
        list_parts(Csv(name="csv", path=str(path)))


def test_another_encoding_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"text\nM\xf6we\n")
    with pytest.raises(UserError, match=r"line 2: it is not utf-8 text: name the file's encoding"):
        list_parts(Csv(name="csv", path=str(path)))


def test_wrong_rows_are_put_aside_if_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,id\na,1\nb\nc,1\nd,4\n")
    parts, documents = _documents(path, wrong_rows="quarantine")
    assert [document.text for document in documents] == ["a", "d"]
    assert [part["doc_id"] for part in parts if "error" in part] == ["rows.csv, line 3", "rows.csv, line 4"]
    with pytest.raises(Unreadable, match="1 cells"):
        next(read_part("csv", next(part for part in parts if "error" in part)))


def test_a_cell_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text\n" + "word " * 100_000 + "\n")
    limit = csv.field_size_limit()
    _, (document,) = _documents(path)
    assert len(document.text) == 500_000 and csv.field_size_limit() == limit
