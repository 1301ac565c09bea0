"""Searches among vectors: the same as by arithmetic, exact or by index; the cache of vectors."""

from pathlib import Path

import numpy as np
import pytest

from components.data import search, store
from components.data.curation.vectors import Embedding, embed_texts, nearest


def _unit(matrix: np.ndarray) -> np.ndarray:
    return (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)


def _planted(seed: int, count: int, copies: int, dimension: int = 48) -> np.ndarray:
    """Random unit vectors, the last ``copies`` of which are the first ones with a little noise: a cosine of 0.98."""
    rng = np.random.default_rng(seed)
    matrix = _unit(rng.normal(size=(count, dimension)))
    noise = _unit(rng.normal(size=(copies, dimension)))
    matrix[-copies:] = _unit(matrix[:copies] + 0.2 * noise)
    return matrix


def test_exact_search_is_the_sorted_product(tmp_path: Path) -> None:
    stored, queries = _planted(0, 300, 10), _planted(1, 290, 10)
    products = queries @ stored.T
    found: dict[int, list[tuple[int, float]]] = {}
    for query, place, score in nearest(stored, queries, 4, tmp_path):
        found.setdefault(query, []).append((place, score))
    assert sorted(found) == list(range(290))
    for query, own in found.items():
        order = np.argsort(-products[query])[:4]
        assert [place for place, _ in own] == order.tolist()
        assert [score for _, score in own] == pytest.approx(products[query][order].tolist(), abs=1e-5)


def test_an_index_finds_what_is_very_near(tmp_path: Path) -> None:
    count, copies = 6_000, 600
    matrix = _planted(2, count, copies)
    found = {(query, place): score for query, place, score in nearest(matrix, matrix, 3, tmp_path) if query != place}
    pairs = [(count - copies + number, number) for number in range(copies)]
    hits = [pair for pair in pairs if pair in found]
    assert len(hits) > 0.98 * copies
    expected = [float(matrix[a] @ matrix[b]) for a, b in hits]
    assert [found[pair] for pair in hits] == pytest.approx(expected, abs=1e-4)
    assert min(expected) > 0.95
    assert not list(tmp_path.iterdir())  # nothing is left behind


def test_no_vectors_find_nothing(tmp_path: Path) -> None:
    some = _planted(3, 5, 1)
    assert list(nearest(some[:0], some, 3, tmp_path)) == list(nearest(some, some[:0], 3, tmp_path)) == []
    assert list(nearest(some[:1], some[:1], 3, tmp_path)) == [(0, 0, pytest.approx(1.0, abs=1e-6))]


def test_an_interrupted_embedding_goes_on_where_it_stopped(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(2_500)]
    asked: list[int] = []

    def embed(some: list[str], fails_after: int = 2) -> np.ndarray:
        if len(asked) == fails_after:
            asked.append(0)
            raise RuntimeError("the machine went away")
        asked.append(len(some))
        return _unit(np.array([[float(text.split()[1]) + 1, 1.0] for text in some]))

    with pytest.raises(RuntimeError, match="went away"):
        embed_texts(str(tmp_path), texts, Embedding("e", embed))
    assert asked == [1024, 1024, 0]
    vectors = embed_texts(str(tmp_path), texts, Embedding("e", embed))
    assert asked == [1024, 1024, 0, 2_500 - 2_048]
    chosen = ["text 2499", "text 0", "text 2499"]
    expected = _unit(np.array([[2500.0, 1.0], [1.0, 1.0], [2500.0, 1.0]]))
    np.testing.assert_allclose(vectors.of(chosen), expected, atol=1e-6)


def test_many_vectors_at_once_find_what_each_finds_alone(tmp_path: Path) -> None:
    matrix = _planted(4, 40, 5)
    rows = [{"id": str(number), "vector": vector.tolist()} for number, vector in enumerate(matrix)]
    import pyarrow as pa

    schema = pa.schema([("id", pa.string()), ("vector", pa.list_(pa.float32(), 48))])
    ref = store.write(str(tmp_path), "t", rows, schema=schema, key="id")
    table = store.open_table(ref)
    for some in (matrix[:1], matrix[:7]):
        together = search.search_vectors(table, some, 3).to_pylist()
        for query, vector in enumerate(some):
            alone = search.search_vector(table, vector.tolist(), 3)
            own = [row for row in together if row["query"] == query]
            assert [row["id"] for row in own] == [row["id"] for row in alone]
            assert [row["score"] for row in own] == pytest.approx([row["score"] for row in alone], abs=1e-5)
