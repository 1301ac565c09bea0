"""Maximal marginal relevance against its definition, and against choices made by hand."""

import numpy as np
import pytest

from components.retrieval.diversify import maximal_marginal_relevance as mmr


def _unit(rows: list[list[float]]) -> np.ndarray:
    array = np.array(rows, dtype=np.float64)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_a_copy_of_the_best_gives_way_to_something_new() -> None:
    """0 and 1 are the same text; 2 is less relevant but new: 0.5 * 0.9 - 0.5 * 1 < 0.5 * 0 - 0.5 * 0."""
    relevance, vectors = np.array([1.0, 0.9, 0.0]), _unit([[1, 0], [1, 0], [0, 1]])
    assert mmr(relevance, vectors, 2, 0.5) == [0, 2]
    assert mmr(relevance, vectors, 2, 0.1) == [0, 1]


def test_no_novelty_keeps_the_order() -> None:
    rng = np.random.default_rng(0)
    relevance, vectors = rng.normal(size=12), _unit(rng.normal(size=(12, 4)).tolist())
    assert mmr(relevance, vectors, 12, 0.0) == list(np.argsort(-relevance))


@pytest.mark.parametrize("seed", range(4))
def test_every_choice_is_the_best_of_what_is_left(seed: int) -> None:
    rng = np.random.default_rng(seed)
    relevance, vectors, novelty = rng.random(15), _unit(rng.normal(size=(15, 3)).tolist()), 0.4
    scaled = (relevance - relevance.min()) / (relevance.max() - relevance.min())
    chosen: list[int] = []
    for _ in range(6):
        left = [i for i in range(15) if i not in chosen]
        chosen.append(
            max(left, key=lambda i: 0.6 * scaled[i] - 0.4 * max((vectors[i] @ vectors[j] for j in chosen), default=0))
        )
    assert mmr(relevance, vectors, 6, novelty) == chosen


def test_few_or_equal_candidates_are_no_trouble() -> None:
    assert mmr(np.array([]), np.zeros((0, 3)), 3, 0.5) == []
    assert mmr(np.array([2.0, 2.0]), _unit([[1, 0], [0, 1]]), 5, 0.5) == [0, 1]
