"""Both layouts of test collections give the same collection; what is wrong is named."""

import gzip
import json
from pathlib import Path

import pytest

from components.config import UserError
from components.retrieval.collection import Collection, read_collection

EXPECTED = Collection(
    {"1": {"title": "t", "text": "a"}, "2": {"title": "", "text": "b"}}, {"q": "what"}, {"q": {"1": 2, "2": -1}}
)


def _write(path: Path, *rows: dict) -> None:
    path.parent.mkdir(exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (gzip.open if path.suffix == ".gz" else open)(path, "wt").write(text)


def test_plain_json_lines_packed(tmp_path: Path) -> None:
    _write(tmp_path / "documents.jsonl.gz", {"id": 1, "title": "t", "text": "a"}, {"id": 2, "text": "b"})
    _write(tmp_path / "queries.jsonl", {"id": "q", "text": "what"}, {"id": "unanswered", "text": "who"})
    grade = {"query_id": "q", "doc_id": "1", "relevance": 2}
    _write(tmp_path / "qrels.jsonl", grade, grade | {"doc_id": "2", "relevance": -1})
    assert read_collection(tmp_path) == EXPECTED


def test_a_line_of_json_ends_where_json_lines_end(tmp_path: Path) -> None:
    lines = ['{"id": "1", "text": "one\u2028line"}', '{"id": "2", "text": "two"}']
    (tmp_path / "documents.jsonl").write_text("\n".join(lines))
    _write(tmp_path / "queries.jsonl", {"id": "q", "text": "what"})
    _write(tmp_path / "qrels.jsonl", {"query_id": "q", "doc_id": "1", "relevance": 1})
    texts = [document["text"] for document in read_collection(tmp_path).documents.values()]
    assert texts == ["one\u2028line", "two"]


def test_the_layout_of_beir(tmp_path: Path) -> None:
    _write(tmp_path / "corpus.jsonl", {"_id": "1", "title": "t", "text": "a"}, {"_id": "2", "text": "b"})
    _write(tmp_path / "queries.jsonl", {"_id": "q", "text": "what"})
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/test.tsv").write_text("query-id\tcorpus-id\tscore\nq\t1\t2\nq\t2\t-1\n")
    assert read_collection(tmp_path) == EXPECTED


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no documents\.jsonl or corpus\.jsonl"):
        read_collection(tmp_path)
    _write(tmp_path / "corpus.jsonl", {"_id": "1", "text": "a"}, {"text": "b"})
    with pytest.raises(UserError, match="line 2: expected id and text, and there is no 'id'"):
        read_collection(tmp_path)
    _write(tmp_path / "corpus.jsonl", {"_id": "1", "text": "a"}, {"_id": "1", "text": "b"})
    with pytest.raises(UserError, match="line 2: the id 1 is that of line 1"):
        read_collection(tmp_path)
    (tmp_path / "corpus.jsonl").write_text('{"_id": "1"')
    with pytest.raises(UserError, match="line 1: expected a JSON object with id and text"):
        read_collection(tmp_path)
    _write(tmp_path / "corpus.jsonl", {"_id": "1", "text": "a"})
    _write(tmp_path / "queries.jsonl", {"_id": "q", "text": "what"})
    _write(tmp_path / "qrels.jsonl", {"query_id": "other", "doc_id": "1", "relevance": 1})
    with pytest.raises(UserError, match="no query has a relevant document"):
        read_collection(tmp_path)


@pytest.mark.parametrize(
    ("grade", "said"),
    [
        ({"query-id": "q", "doc_id": "1", "relevance": 1}, "'query_id'"),
        ({"query_id": "q", "doc_id": "1", "relevance": "1.5"}, "the last a whole number"),
        (["q", "1", 1], "got list"),
    ],
)
def test_a_judgement_that_cannot_be_read_is_named(tmp_path: Path, grade: dict, said: str) -> None:
    _write(tmp_path / "documents.jsonl", {"id": "1", "text": "a"})
    _write(tmp_path / "queries.jsonl", {"id": "q", "text": "what"})
    _write(tmp_path / "qrels.jsonl", grade)
    with pytest.raises(UserError, match=rf"qrels\.jsonl, line 1: expected .*{said}"):
        read_collection(tmp_path)
