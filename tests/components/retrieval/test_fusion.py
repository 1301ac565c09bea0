"""Fusion by rank and by weighted scores against sums done by hand."""

import pytest

from components.retrieval.fusion import reciprocal_rank_fusion, weighted_fusion


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


def test_a_weight_of_two_counts_like_the_ranking_twice() -> None:
    twice = reciprocal_rank_fusion([["a", "b"], ["a", "b"], ["b"]])
    assert dict(reciprocal_rank_fusion([["a", "b"], ["b"]], weights=[2, 1])) == pytest.approx(dict(twice))


def test_weighted_scores_are_stretched_to_one_scale() -> None:
    """dense: a 1, b 0.5, c 0; text: b 1, d 0. With 0.75 and 0.25: a 0.75, b 0.375 + 0.25, c 0, d 0."""
    fused = weighted_fusion([{"a": 0.9, "b": 0.8, "c": 0.7}, {"b": 30.0, "d": 10.0}], [0.75, 0.25])
    assert [item for item, _ in fused] == ["a", "b", "c", "d"]
    assert [score for _, score in fused] == pytest.approx([0.75, 0.625, 0.0, 0.0])


def test_stretching_forgets_scale_and_shift() -> None:
    dense, text = {"a": 0.3, "b": 0.2, "c": 0.1}, {"c": 9.0, "a": 4.0, "d": 1.0}
    moved = {key: 100 * value - 7 for key, value in text.items()}
    fused = [dict(weighted_fusion([dense, other], [0.6, 0.4])) for other in (text, moved)]
    assert fused[0] == pytest.approx(fused[1])
    assert weighted_fusion([{"a": 5.0, "b": 5.0}, {}], [1.0, 1.0]) == [("a", 1.0), ("b", 1.0)]
