"""Passages are gathered by document however they lie in the table, a few at a time."""

import random

import numpy as np
import pyarrow as pa
import pytest

from components.retrieval import documents

SCHEMA = pa.schema(
    [("corpus", pa.string()), ("doc_id", pa.string()), ("start", pa.int64()), ("vector", pa.list_(pa.float32(), 2))]
)


@pytest.mark.parametrize("at_a_time", [1, 5, 1000])
def test_each_document_comes_once_with_its_passages_in_order(monkeypatch: pytest.MonkeyPatch, at_a_time: int) -> None:
    monkeypatch.setattr(documents, "_ROWS_AT_A_TIME", at_a_time)
    rng = random.Random(0)
    rows = [
        {"corpus": rng.choice("ab"), "doc_id": str(rng.randrange(7)), "start": n, "vector": [float(n), 1.0]}
        for n in range(40)
    ]
    rng.shuffle(rows)
    found = list(documents._by_document(pa.Table.from_pylist(rows, schema=SCHEMA)))
    keys = [(passages[0]["corpus"], passages[0]["doc_id"]) for passages, _ in found]
    assert len(set(keys)) == len(keys) and sum(len(passages) for passages, _ in found) == 40
    for passages, vectors in found:
        starts = [passage["start"] for passage in passages]
        assert starts == sorted(starts) == vectors[:, 0].tolist()
        assert len({(passage["corpus"], passage["doc_id"]) for passage in passages}) == 1


def test_a_summary_is_the_title_and_the_openings_of_two_passages() -> None:
    """The first passage has 1 token and the second 9, so that the mean points to the second."""
    shared = dict.fromkeys(("corpus", "doc_id", "source", "group", "symbol", "metadata", "embedder"), "x")
    passages = [
        shared | {"title": "Ice", "text": "It is cold here. More of it.", "n_tokens": 1},
        shared | {"title": "Ice", "text": "A glacier flows down the valley. It is slow.", "n_tokens": 9},
    ]
    made = documents.document(passages, np.eye(2, dtype=np.float32))
    assert made["text"] == "Ice\nIt is cold here.\nA glacier flows down the valley."
    np.testing.assert_allclose(made["vector"], np.array([1, 9]) / np.sqrt(82), atol=1e-6)
