"""The promise about false answers, by counting and by simulation."""

import random

import pytest

from components.config import UserError
from components.retrieval.abstain import answers, fit, threshold_for
from components.retrieval.hits import Hit


def test_the_threshold_is_the_order_statistic_that_the_promise_names() -> None:
    """n = 19, rate 0.05: ceil(20 * 0.95) = 19, the largest; rate 0.1: the 18th."""
    scores = [float(n) for n in range(1, 20)]
    assert threshold_for(scores, 0.05) == 19.0
    assert threshold_for(scores, 0.10) == 18.0
    with pytest.raises(UserError, match="needs 19 unanswerable questions at least, got 18"):
        threshold_for(scores[:18], 0.05)


@pytest.mark.parametrize("rate", [0.05, 0.2])
def test_new_unanswerable_questions_pass_no_more_often_than_promised(rate: float) -> None:
    """Exact in expectation: with n = 39 the rate is at most the promised one and at least that minus 1 / 40."""
    rng = random.Random(0)
    draw = rng.expovariate
    passed = [draw(1) > threshold_for([draw(1) for _ in range(39)], rate) for _ in range(6000)]
    share = sum(passed) / len(passed)
    assert rate - 1 / 40 - 0.01 < share < rate + 0.01


def _questions(values: list[float], other: list[float]) -> list[dict]:
    return [{"similarity": a, "bm25": b, "score": 0.0} for a, b in zip(values, other, strict=True)]


def test_the_signal_that_tells_them_apart_is_taken_and_measured_on_other_questions() -> None:
    rng = random.Random(1)
    noise = [rng.random() for _ in range(200)]
    answerable = _questions(noise, [rng.gauss(5, 1) for _ in noise])
    unanswerable = _questions(noise[::-1], [rng.gauss(0, 1) for _ in noise])
    found = fit(answerable, unanswerable, 0.1)
    assert found.signal == "bm25"
    assert found.answer_rate["mean"] > 0.95 and found.answer_rate["n"] == 100
    assert found.false_answer_rate["mean"] < 0.2


def test_where_nothing_tells_them_apart_the_promise_holds_and_few_are_answered() -> None:
    rng = random.Random(2)
    same = [_questions([rng.random() for _ in range(400)], [rng.random() for _ in range(400)]) for _ in range(2)]
    found = fit(*same, 0.05)
    assert found.false_answer_rate["low"] < 0.05 and found.answer_rate["mean"] < 0.15


def test_it_goes_by_as_many_hits_as_it_was_fitted_on() -> None:
    """A weaker first hit and a stronger fourth: three were looked at when the threshold was fitted."""
    scores = [0.4, 0.3, 0.2, 0.9]
    hits = [Hit(str(n), "", "", "", "", "", "", None, 0, 0, 0.0, score, None) for n, score in enumerate(scores)]
    kept = {"signal": "similarity", "threshold": 0.5}
    assert not answers(hits, kept, 3) and answers(hits, kept, 4)
    assert answers(hits, kept | {"threshold": 0.35}, 3)
