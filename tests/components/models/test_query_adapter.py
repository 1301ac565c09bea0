"""A map of query vectors: the identity is no change, a map belongs to one embedder, broken folders are refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from components.config import UserError
from components.models.query_adapter import FILE, QueryAdapter

D = 8


def units(count: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(count, D)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_identity_changes_nothing() -> None:
    adapter = QueryAdapter(np.eye(D, dtype=np.float32), "e")
    for vector in units(20):
        np.testing.assert_allclose(adapter.apply(vector), vector, rtol=1e-6)


def test_what_is_mapped_is_a_unit_vector_in_the_maps_direction() -> None:
    matrix = np.random.default_rng(1).normal(size=(D, D)).astype(np.float32)
    for vector in units(20):
        expected = [sum(float(matrix[i, j]) * float(vector[j]) for j in range(D)) for i in range(D)]
        length = sum(value**2 for value in expected) ** 0.5
        found = QueryAdapter(matrix, "e").apply(vector)
        np.testing.assert_allclose(found, [value / length for value in expected], rtol=1e-4, atol=1e-6)
        assert np.linalg.norm(found) == pytest.approx(1.0, abs=1e-6)


def test_a_folder_gives_back_what_was_written(tmp_path: Path) -> None:
    matrix = np.random.default_rng(1).normal(size=(D, D)).astype(np.float32)
    QueryAdapter(matrix, "digest").write(tmp_path / "new" / "folder")
    found = QueryAdapter.read(tmp_path / "new" / "folder")
    assert found.embedder == "digest"
    np.testing.assert_array_equal(found.matrix_DD, matrix)


def test_vectors_of_another_embedder_are_refused() -> None:
    adapter = QueryAdapter(np.eye(D, dtype=np.float32), "a" * 64)
    adapter.check("a" * 64, "i")
    with pytest.raises(
        UserError, match=r"for the embedder aaaaaaaaaaaa, and the vectors of i were made by bbbbbbbbbbbb"
    ):
        adapter.check("b" * 64, "i")


def test_a_folder_that_holds_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"is no query adapter: it has no {FILE}"):
        QueryAdapter.read(tmp_path)
    (tmp_path / FILE).write_text(json.dumps({"embedder": "e", "dimension": D}))
    with pytest.raises(UserError, match=r"it has no matrix\.safetensors"):
        QueryAdapter.read(tmp_path)
    save_file({"matrix": np.zeros((D, D + 1), dtype=np.float32)}, tmp_path / "matrix.safetensors")
    with pytest.raises(UserError, match=r"has the shape \(8, 9\)"):
        QueryAdapter.read(tmp_path)
