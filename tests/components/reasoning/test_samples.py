"""Strategies over several samples: self-consistency and best of n, against a scripted model."""

import math
import time
from dataclasses import replace

import pytest

from components.config import UserError
from components.reasoning.events import Found, Piece
from components.reasoning.extract import same
from components.reasoning.strategies.best_of_n import best_of_n
from components.reasoning.strategies.direct import direct
from components.reasoning.strategies.self_consistency import self_consistency
from components.reasoning.strategies.zero_shot_cot import zero_shot_cot
from components.reasoning.votes import Tally, weight_of
from tests.components.reasoning.fakes import QUESTION, Script, hang, reasons, run, text, tools


def scores(by_text):
    async def score(messages, answers):
        return [by_text[answer.strip()] for answer in answers]

    return score


def votes(*answers):
    tally = Tally(same)
    for voter, answer in enumerate(answers):
        tally.add(answer, voter)
    return tally


def test_the_answer_is_what_most_chains_reach_however_it_is_written():
    model = Script("x Answer: 4", "y Answer: $5.00", "z so #### 5", "so Answer: 5", "no idea at all")
    given = tools(model)
    events = run(self_consistency(QUESTION, given, samples=5))
    assert text(events) == "$5.00" and reasons(events) == ["stop"]
    assert "3 of 4 votes: $5.00" in text(events, "reasoning") and "x Answer: 4" in text(events, "reasoning")
    assert sum(e.completion_tokens for e in events if isinstance(e, Piece)) == 13 <= given.budget.tokens
    assert {call["temperature"] for call in model.calls} == {0.7}
    assert all(call["messages"] == model.calls[0]["messages"] for call in model.calls), "one prefix for the cache"


@pytest.mark.parametrize(
    ("said", "remaining", "decided"),
    [
        (["5"] * 4, 3, True),  # 4 against at most 3
        (["5"] * 3, 3, False),  # may still be a draw
        (["5", "5", "4", "5"], 1, True),  # 3 against at most 2
        (["5", "5", "4"], 2, False),
        (["5", "4"], 0, True),
        ([], 2, False),
        (["", ""], 1, False),  # abstentions decide nothing
    ],
)
def test_a_vote_is_decided_when_no_further_vote_can_change_it(said, remaining, decided):
    assert votes(*said).decided(remaining) is decided


def test_a_vote_is_decided_with_confidence_as_the_beta_posterior_says():
    # 3 against 0: P(share > 1/2) under Beta(4, 1) is 1 - (1/2)^4 = 0.9375. 3 against 1, Beta(4, 2): 26/32 = 0.8125.
    assert votes("5", "5", "5").decided(9, 0.93) and not votes("5", "5", "5").decided(9, 0.94)
    assert votes("5", "5", "5", "4").decided(9, 0.81) and not votes("5", "5", "5", "4").decided(9, 0.82)


def test_the_posterior_is_that_of_a_numeric_integral():
    for lead, second in ((5, 2), (7, 7), (1, 0)):
        steps = 4_000
        xs = [(k + 0.5) / steps for k in range(steps)]
        density = [x**lead * (1 - x) ** second for x in xs]
        above = sum(d for x, d in zip(xs, density, strict=True) if x > 0.5) / sum(density)
        tally = votes(*["5"] * lead, *["4"] * second)
        assert tally.decided(99, above - 1e-3) and not tally.decided(99, above + 1e-3)


def test_samples_that_cannot_change_the_vote_are_cancelled():
    model = Script(lambda _, number: "Answer: 5" if number < 3 else "w " * 500, wait_s=0.002)
    given = tools(model)
    events = run(self_consistency(QUESTION, given, samples=5))
    assert text(events) == "5" and model.most == 5
    assert (model.closed, model.running) == (2, 0)


def test_samples_one_at_a_time_are_not_even_begun():
    model = Script(lambda *_: "Answer: 5")
    run(self_consistency(QUESTION, tools(model), samples=9, at_once=1))
    assert (len(model.calls), model.most) == (5, 1)  # 5 against at most 4


def test_votes_weigh_what_the_scorer_says():
    said = ["one Answer: 4", "two Answer: 4", "three Answer: 5"]
    by_text = {"one Answer: 4": -3.0, "two Answer: 4": -3.0, "three Answer: 5": 2.0}
    assert text(run(self_consistency(QUESTION, tools(Script(*said)), samples=3))) == "4"
    weighted = tools(Script(*said), score=scores(by_text))
    assert text(run(self_consistency(QUESTION, weighted, samples=3, weights="scores"))) == "5"
    assert 2 * weight_of(-3.0) < weight_of(2.0) == pytest.approx(1 / (1 + math.exp(-2)))
    assert (weight_of(-1e9), weight_of(1e9)) == (0.0, 1.0)
    with pytest.raises(UserError, match="there is no reward model"):
        run(self_consistency(QUESTION, tools(Script(*said)), weights="scores"))


def test_a_chain_that_was_cut_off_votes_only_where_none_ended():
    model = Script("the answer is 4 or so", "Answer: 5")
    events = run(self_consistency(QUESTION, tools(model, max_tokens=4), samples=2))
    assert text(events) == "5"
    lone = run(self_consistency(QUESTION, tools(Script("the answer is 4 or so"), max_tokens=4), samples=1))
    assert text(lone) == "4"


def test_answers_that_nobody_can_count_end_in_what_was_said():
    assert text(run(self_consistency(QUESTION, tools(Script("", "")), samples=2))) == ""
    assert text(run(self_consistency(QUESTION, tools(Script("", "Answer:")), samples=2))) == "Answer:"


def test_options_are_voted_on_by_letter():
    question = [{"role": "user", "content": "Which?\nA) 3\nB) 5"}]
    model = Script("It is (B)", "Answer: B) 5", "Answer: 7")
    assert text(run(self_consistency(question, tools(model), samples=3))) == "B"


def test_a_budget_of_samples_gives_the_best_answer_so_far():
    given = tools(Script("Answer: 5", "Answer: 4", "never"), limits={"samples": 2})
    assert text(run(self_consistency(QUESTION, given, samples=8))) == "5"
    assert given.budget.stopped_by == "samples"


def test_a_budget_of_seconds_gives_the_best_answer_so_far():
    model = Script(lambda _, number: "Answer: 5" if number == 0 else "w " * 1000, wait_s=0.01)
    given = tools(model, limits={"seconds": 1.0})
    assert text(run(self_consistency(QUESTION, given, samples=3))) == "5"
    assert given.budget.stopped_by == "seconds" and model.running == 0


def test_a_client_that_wants_a_format_gets_it_from_a_last_call():
    model = Script("Answer: 5", '{"sum": 5}')
    events = run(self_consistency(QUESTION, tools(model, formatted=True), samples=1))
    assert text(events) == '{"sum": 5}' and [call["final"] for call in model.calls] == [False, True]
    assert model.calls[1]["messages"][-2] == {"role": "assistant", "content": "5"}


def test_with_an_index_every_chain_has_the_passages():
    model = Script("Answer: 5 [1]")
    events = run(self_consistency(QUESTION, tools(model, index=True), samples=1, show="sample"))
    assert isinstance(events[0], Found) and "about What is 2 + 3?" in model.asked(0)
    assert text(events) == "Answer: 5 [1]"


def test_the_failure_of_the_engine_is_the_requests():
    with pytest.raises(RuntimeError, match="gone"):
        run(self_consistency(QUESTION, tools(Script("Answer: 5", RuntimeError("gone"))), samples=2))


def test_best_of_n_takes_the_highest_score_and_needs_a_scorer():
    model = Script("poor", "good", "fair")
    given = tools(model, score=scores({"poor": 0.1, "good": 0.9, "fair": 0.5}))
    events = run(best_of_n(QUESTION, given, samples=3))
    assert text(events) == "good" and "0.900, 0.500, 0.100" in text(events, "reasoning")
    assert all(call["messages"] == QUESTION for call in model.calls)
    with pytest.raises(UserError, match="chooses by a reward model, and there is none"):
        run(best_of_n(QUESTION, tools(Script("x"))))


def test_an_answer_that_was_cut_off_wins_only_against_its_like():
    given = tools(Script("a b c", "d"), max_tokens=2, score=scores({"a b": 9.0, "d": 0.0}))
    assert text(run(best_of_n(QUESTION, given, samples=2))) == "d"
    cut = tools(Script("a b c", "d e f"), max_tokens=2, score=scores({"a b": 9.0, "d e": 0.0}))
    assert text(run(best_of_n(QUESTION, cut, samples=2))) == "a b"


def test_best_of_n_tells_thought_from_answer():
    said = ["two and three\nAnswer: 5", "hm\nAnswer: 6"]
    given = tools(Script(*said), score=scores(dict(zip(said, (1.0, 0.0), strict=True))))
    events = run(best_of_n(QUESTION, given, samples=2, think=True))
    assert text(events) == "5" and text(events, "reasoning").startswith("two and three\n\n")


@pytest.mark.parametrize("late", [0, 1])
def test_votes_are_equal_where_the_scorer_takes_all_the_time(late):
    """Two of three say 5, whether the first vote was weighed before the time was over or not."""
    asked = []

    async def score(messages, answers):
        asked.append(answers)
        if len(asked) > late:
            await hang()
        return [3.0]

    model = Script("Answer: 4", "one Answer: 5", "two Answer: 5")
    given = tools(model, score=score, limits={"seconds": 0.5})
    began = time.monotonic()
    events = run(self_consistency(QUESTION, given, samples=3, weights="scores"))
    assert text(events) == "5" and given.budget.stopped_by == "seconds" and time.monotonic() - began < 10


def test_best_of_n_gives_its_first_whole_answer_where_the_scorer_takes_all_the_time():
    given = tools(Script("a b c d", "e", "f"), score=hang, max_tokens=3, limits={"seconds": 0.2})
    events = run(best_of_n(QUESTION, given, samples=3))
    assert text(events) == "e" and given.budget.stopped_by == "seconds"
    assert "none in time" in text(events, "reasoning")


@pytest.mark.parametrize("strategy", [direct, self_consistency, zero_shot_cot])
def test_an_index_that_hangs_ends_with_the_time(strategy):
    given = replace(tools(Script("never"), limits={"seconds": 0.1}), retrieve=hang)
    began = time.monotonic()
    events = run(strategy(QUESTION, given))
    assert text(events) == "" and given.budget.stopped_by == "seconds" and time.monotonic() - began < 10
