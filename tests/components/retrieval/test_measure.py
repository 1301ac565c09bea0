"""Measures against arithmetic by hand and a slow reference; intervals against what pairing must do."""

import math
import random

import pytest

from components.config import UserError
from components.retrieval.measure import paired, per_query, quantile, summary, table


def test_measures_are_what_the_definitions_say() -> None:
    """q: relevant a (2), b (1), ranked x a y b. Recall@3 = 1/2; first hit at 2: RR = 1/2;

    DCG@3 = 2 / log2(3), ideal = 2 / log2(2) + 1 / log2(3).
    """
    found = per_query({"q": {"a": 2, "b": 1, "x": 0}}, {"q": ["x", "a", "y", "b"]}, 3)
    assert found["recall@3"]["q"] == 0.5 and found["mrr@3"]["q"] == 0.5
    assert found["ndcg@3"]["q"] == pytest.approx((2 / math.log2(3)) / (2 + 1 / math.log2(3)))


def test_what_is_marked_as_neither_is_taken_out_before_counting() -> None:
    grades = {"q": {"itself": -1, "a": 1}}
    with_it = per_query(grades, {"q": ["itself", "x", "a"]}, 2)
    assert with_it == per_query({"q": {"a": 1}}, {"q": ["x", "a"]}, 2)
    assert with_it["mrr@2"]["q"] == 0.5


def test_a_ranking_keeps_its_order_and_what_was_not_found_counts_nothing() -> None:
    """Ids in alphabetical order either way: a tie-break by id would give both the same value."""
    for ranking, expected in ((["a", "b"], 1.0), (["b", "a"], 0.5)):
        assert per_query({"q": {"a": 1}}, {"q": ranking}, 5)["mrr@5"]["q"] == expected
    assert per_query({"q": {"a": 1}, "r": {"a": 1}}, {"q": ["a", "a", "a"], "r": []}, 5)["recall@5"] == {"q": 1, "r": 0}


def _slow_ndcg(grades: dict[str, int], ranking: list[str], k: int) -> float:
    gain = sum(grades.get(item, 0) / math.log2(rank + 1) for rank, item in enumerate(ranking[:k], 1))
    best = sorted(grades.values(), reverse=True)[:k]
    return gain / sum(grade / math.log2(rank + 1) for rank, grade in enumerate(best, 1))


@pytest.mark.parametrize("seed", range(5))
def test_random_rankings_agree_with_a_slow_reference(seed: int) -> None:
    rng = random.Random(seed)
    items = [f"d{n}" for n in range(30)]
    grades = {f"q{n}": {item: rng.randrange(4) for item in rng.sample(items, 12)} | {"d0": 1} for n in range(6)}
    rankings = {query: rng.sample(items, 20) for query in grades}
    found = per_query(grades, rankings, 10)
    for query, of_query in grades.items():
        relevant = {item for item, grade in of_query.items() if grade > 0}
        top = rankings[query][:10]
        assert found["recall@10"][query] == pytest.approx(len(relevant & set(top)) / len(relevant))
        first = next((1 / rank for rank, item in enumerate(top, 1) if item in relevant), 0.0)
        assert found["mrr@10"][query] == pytest.approx(first)
        assert found["ndcg@10"][query] == pytest.approx(_slow_ndcg(of_query, rankings[query], 10))


def test_pairing_removes_what_makes_queries_hard_for_both() -> None:
    rng = random.Random(0)
    theirs = {str(n): rng.random() for n in range(60)}
    ours = {query: value + 0.1 for query, value in theirs.items()}
    difference = paired(ours, theirs)
    assert difference["low"] == pytest.approx(0.1) == difference["high"]
    with pytest.raises(UserError, match="1 queries were asked on one side only"):
        paired({"a": 1.0}, {})


def test_quantiles_lie_in_their_intervals_and_one_slow_query_moves_p95_only() -> None:
    even = quantile([1.0] * 100, 0.95)
    assert even == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 100}
    slow = [1.0] * 90 + [50.0] * 10
    assert quantile(slow, 0.5)["mean"] == 1.0 and quantile(slow, 0.95)["mean"] == 50.0
    assert math.isnan(quantile([], 0.5)["mean"])


def test_a_summary_has_every_measure_and_latency_and_shows_as_a_table() -> None:
    values = per_query({"q": {"a": 1}, "r": {"b": 1}}, {"q": ["a"], "r": ["a", "b"]}, 2)
    figures = summary(values, {"q": 0.002, "r": 0.004})
    assert set(figures) == {"recall@2", "mrr@2", "ndcg@2", "p50_ms", "p95_ms"}
    assert figures["mrr@2"]["mean"] == 0.75 and figures["p50_ms"]["mean"] == pytest.approx(3.0)
    lines = table({"text": figures, "dense": figures}).splitlines()
    assert len(lines) == 4 and lines[2].startswith("| text | 1.000 [1.000, 1.000] | 0.750 [0.500, 1.000] |")


def test_a_query_that_nothing_answers_is_refused() -> None:
    with pytest.raises(UserError, match="nothing relevant"):
        per_query({"q": {"a": 0}}, {"q": ["a"]}, 5)
