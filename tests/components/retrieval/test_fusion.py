"""Reciprocal rank fusion against sums done by hand."""

import pytest

from components.retrieval.fusion import reciprocal_rank_fusion


def test_scores_are_the_sums_of_reciprocal_ranks() -> None:
    """a: 1/61 + 1/62; b: 1/62 + 1/61; c: 1/63; d: 1/63. Ties keep the order of first sight."""
    fused = reciprocal_rank_fusion([["a", "b", "c"], ["b", "a", "d"]])
    assert [item for item, _ in fused] == ["a", "b", "c", "d"]
    assert [score for _, score in fused] == pytest.approx([1 / 61 + 1 / 62] * 2 + [1 / 63] * 2)


def test_found_by_both_beats_first_in_one() -> None:
    """x: 1/(60+2) + 1/(60+2) = 0.0323; each first: 1/61 = 0.0164."""
    assert reciprocal_rank_fusion([["p", "x"], ["q", "x"]])[0][0] == "x"


def test_repeats_and_empty_rankings_count_once_and_nothing() -> None:
    assert reciprocal_rank_fusion([["a", "a", "b"], []], rank_constant=1) == [("a", 1 / 2), ("b", 1 / 3)]
    assert reciprocal_rank_fusion([]) == []
