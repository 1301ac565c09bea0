"""Schemas and row classes."""

import hashlib
import subprocess
import sys

import pytest

from components.data import records
from components.data.records import Document, Question, content_hash


def test_content_hash_tells_parts_apart_and_is_the_same_everywhere() -> None:
    assert content_hash("ab", "c") != content_hash("a", "bc") != content_hash("abc")
    data = (2).to_bytes(8, "big") + b"ab" + (1).to_bytes(8, "big") + b"c"
    assert content_hash("ab", "c") == hashlib.sha256(data).hexdigest()[:32]
    assert content_hash("\ud800") != content_hash("?")  # half a surrogate pair, as broken JSON may hold


def test_row_classes_have_the_columns_of_their_tables() -> None:
    document = Document("id", "text", "source", "title")
    assert list(document.row()) == records.DOCUMENT.names
    question = Question("id", [{"role": "user", "content": "x"}], "q", "what", True, target=1)
    assert list(question.row()) == records.QUESTION.names
    assert Question.from_row({**question.row(), "another column": 1}) == question


def test_every_schema_is_offered_and_nothing_else() -> None:
    assert records.passage_schema(7).field("vector").type.list_size == 7
    assert all(hasattr(records, name) for name in records.__all__)
    with pytest.raises(AttributeError, match="NO_SUCH"):
        _ = records.NO_SUCH


def test_importing_records_does_not_load_arrow() -> None:
    program = "import sys, components.data.records, components.data.store; print('pyarrow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
