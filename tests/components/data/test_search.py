"""Searching a real LanceDB table by vectors and by words."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.config import UserError
from components.data import search, store

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string()), ("vector", pa.list_(pa.float32(), 2))])


def _rows(*texts: str) -> list[dict]:
    return [
        {"id": str(number), "text": text, "vector": [np.cos(number), np.sin(number)]}
        for number, text in enumerate(texts)
    ]


def test_vector_search_orders_by_cosine_whatever_the_length(tmp_path: Path) -> None:
    vectors = {"east": [3.0, 0.0], "north": [0.0, 0.1], "northeast": [5.0, 5.0], "west": [-1.0, 0.0]}
    rows = [{"id": name, "text": name, "vector": vector} for name, vector in vectors.items()]
    ref = store.write(str(tmp_path), "t", rows, schema=SCHEMA, key="id")
    found = search.search_vector(ref, [1.0, 0.0], 4)
    assert [row["id"] for row in found] == ["east", "northeast", "north", "west"]
    assert [row["score"] for row in found] == pytest.approx([1.0, 0.5**0.5, 0.0, -1.0], abs=1e-6)
    assert "vector" not in found[0]
    with pytest.raises(UserError, match="cannot search table 't' where"):
        search.search_vector(ref, [1.0, 0.0], 1, where="nonsense = 1")
    assert [row["id"] for row in search.search_vector(ref, [1.0, 0.0], 1, where="id != 'east'")] == ["northeast"]


def test_text_search_finds_names_stop_words_and_word_forms(tmp_path: Path) -> None:
    texts = ["os.path.join(a, *p) joins paths", "all(iterable)", "operator.is_not(a, b)", "io.StringIO"]
    store.write(str(tmp_path), "t", _rows(*texts), schema=SCHEMA, key="id")
    ref = search.create_fulltext(f"{tmp_path}#t", "text")
    for query, expected in (("join", "0"), ("os.path", "0"), ("all", "1"), ("is_not", "2"), ("STRINGIO", "3")):
        found = search.search_text(ref, query, 3)
        assert found[0]["id"] == expected, query
        assert found[0]["score"] > 0
    assert search.search_text(ref, "", 3) == search.search_text(ref, "\"(' AND ???", 3) == []
    assert search.search_text(ref, "all", 3, where="id = '0'") == []


def test_full_text_index_takes_in_new_rows_and_is_pinned(tmp_path: Path) -> None:
    store.write(str(tmp_path), "t", _rows("first"), schema=SCHEMA, key="id")
    old = search.create_fulltext(f"{tmp_path}#t", "text")
    assert search.create_fulltext(old, "text") == old  # nothing new: no new version
    store.write(str(tmp_path), "t", [{"id": "9", "text": "second", "vector": [0, 1]}], schema=SCHEMA, key="id")
    new = search.create_fulltext(old, "text")
    assert new != old
    assert [row["id"] for row in search.search_text(new, "second", 3)] == ["9"]
    assert search.search_text(old, "second", 3) == []


def test_text_search_without_an_index_says_so(tmp_path: Path) -> None:
    ref = store.write(str(tmp_path), "t", _rows("a"), schema=SCHEMA, key="id")
    with pytest.raises(UserError, match="no full text index"):
        search.search_text(ref, "a", 1)
