"""Budgets: what is left, who is stopped, what runs at the same time, and what a client is told."""

import asyncio
from contextlib import aclosing
from dataclasses import replace

import pytest

from components.config import UserError
from components.config import parse as parse_config
from components.reasoning.budget import Budget, Limits
from components.reasoning.metered import draw, metered
from tests.components.reasoning.fakes import QUESTION, Script, run, text, tools


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_a_client_tightens_and_never_widens():
    ours = Limits(tokens=100, seconds=2.0)
    assert ours.within(Limits(tokens=50, samples=3, seconds=9)) == Limits(tokens=50, samples=3, seconds=2.0)
    assert ours.within(None) == ours


@pytest.mark.parametrize("values", [{"tokens": 0}, {"seconds": 0}, {"tool_calls": -1}, {"token": 3}])
def test_limits_that_make_no_sense_are_refused(values):
    with pytest.raises(UserError):
        parse_config(Limits, values)


def test_a_budget_counts_promises_and_frees_what_was_not_written():
    budget = Budget(Limits(tokens=10))
    budget.promise(6)
    assert (budget.cap(None), budget.cap(3), budget.unwritten()) == (4, 3, 10)
    budget.settle(6, 2)
    assert (budget.cap(None), budget.tokens, budget.stopped_by) == (8, 2, None)
    assert not budget.spent()
    budget.settle(None, 8)
    assert budget.spent() and budget.stopped_by == "tokens"


def test_without_limits_nothing_is_ever_spent():
    budget = Budget()
    budget.settle(None, 10**9)
    assert budget.cap(None) is None and budget.cap(7) == 7 and budget.seconds_left() is None
    assert budget.take("samples") and budget.take("tool_calls") and not budget.spent()


def test_the_first_limit_that_stops_something_is_the_one_that_is_told():
    clock = Clock()
    budget = Budget(Limits(samples=1, seconds=5), clock)
    assert budget.take("samples") and not budget.take("samples")
    clock.now += 6
    assert budget.spent() and budget.stopped_by == "samples"
    page = budget.page()
    assert page == {
        "spent": "samples",
        "limits": {"samples": 1, "seconds": 5.0},
        "used": {"tokens": 0, "samples": 1, "tool_calls": 0, "seconds": 6.0},
    }


def test_a_generation_is_no_longer_than_what_is_left_and_the_next_does_not_begin():
    model = Script("one two three four five six", "never")
    given = tools(model, limits={"tokens": 4})
    assert text(run(given.generate(QUESTION, max_tokens=100))) == "one two three four"
    assert given.budget.stopped_by == "tokens"
    (piece,) = run(given.generate(QUESTION))
    assert (piece.text, piece.finish_reason) == ("", "length") and len(model.calls) == 1


def test_a_generation_cut_by_its_own_limit_does_not_blame_the_budget():
    given = tools(Script("one two three four"), limits={"tokens": 100})
    run(given.generate(QUESTION, max_tokens=2))
    assert (given.budget.stopped_by, given.budget.tokens) == (None, 2)


def test_time_ends_a_generation_with_what_it_wrote():
    given = tools(Script("one two three " * 100, wait_s=0.05), limits={"seconds": 1.0})
    events = run(given.generate(QUESTION))
    assert text(events).startswith("one") and len(text(events).split()) < 50
    assert events[-1].finish_reason == "length" and given.budget.stopped_by == "seconds"
    assert events[-1].completion_tokens == given.budget.tokens == len(text(events).split())


def test_a_timeout_of_the_engine_is_its_failure_and_not_the_budgets():
    given = tools(Script(TimeoutError("engine")), limits={"seconds": 60})
    with pytest.raises(TimeoutError):
        run(given.generate(QUESTION))
    assert given.budget.stopped_by is None


def test_samples_run_at_the_same_time_and_come_as_they_end():
    def reply(_, number):
        return " ".join(["w"] * (6 - number))

    model = Script(reply, wait_s=0.005)
    given = tools(model)
    samples = run(draw([QUESTION] * 4, given, max_tokens=None, temperature=0.7))
    assert model.most == 4 and given.budget.samples == 4
    assert [sample.index for sample in samples] == [3, 2, 1, 0]
    assert {call["temperature"] for call in model.calls} == {0.7}
    assert all(sample.finished for sample in samples) and given.budget.tokens == 3 + 4 + 5 + 6


def test_samples_wait_for_tokens_that_others_may_leave():
    model = Script(lambda *_: "a b", wait_s=0.002)
    given = tools(model, limits={"tokens": 10})
    samples = run(draw([QUESTION] * 4, given, max_tokens=5, temperature=1.0))
    # Two can be promised 5 tokens each; each leaves 3, so that 8, 6 and then 5 or less are there for others.
    assert model.most == 2 and len(samples) == 3 and given.budget.tokens == 6
    assert given.budget.stopped_by == "tokens"


def test_the_first_sample_gets_what_there_is():
    given = tools(Script(lambda *_: "a b c d"), limits={"tokens": 3})
    (sample,) = run(draw([QUESTION] * 4, given, max_tokens=50, temperature=1.0))
    assert (sample.text, sample.finished) == ("a b c", False) and given.budget.stopped_by == "tokens"


def test_without_a_length_what_is_left_is_shared():
    model = Script(lambda *_: "a b c d e f")
    given = tools(model, limits={"tokens": 9})
    samples = run(draw([QUESTION] * 3, given, max_tokens=None, temperature=1.0))
    assert [call["max_tokens"] for call in model.calls] == [3, 3, 3] and len(samples) == 3


def test_samples_share_tokens_rather_than_wait_for_their_full_length():
    model = Script(lambda *_: "a b c", wait_s=0.002)
    given = tools(model, limits={"tokens": 200})
    samples = run(draw([QUESTION] * 4, given, max_tokens=250, temperature=1.0))
    # 64 is the least that is worth a start: three fit into 200, the fourth waits for what they leave.
    assert [call["max_tokens"] for call in model.calls][:3] == [64, 64, 64] and model.most == 3
    assert len(samples) == 4 and given.budget.stopped_by is None


def test_choices_that_draw_at_the_same_time_share_the_tokens():
    """Of 640 tokens each of two choices has 320: five samples of the least that is worth a start, three wait."""
    model = Script(lambda *_: "a b c", wait_s=0.002)
    given = replace(tools(model, limits={"tokens": 640}), choices=2)

    async def collected(samples):
        return [sample async for sample in samples]

    async def drawn():
        return await asyncio.gather(
            *(collected(draw([QUESTION] * 8, given, max_tokens=250, temperature=1.0)) for _ in range(2))
        )

    for samples in asyncio.run(drawn()):
        assert [sample.text for sample in samples] == ["a b c"] * 8 and all(sample.finished for sample in samples)
    assert model.most == 10 and given.budget.tokens == 48 and given.budget.cap(None) == 640 - 48


def test_what_was_promised_to_samples_that_never_began_is_free_again():
    given = tools(Script(lambda *_: "a b"), limits={"tokens": 100})

    async def given_up():
        samples = draw([QUESTION] * 2, given, max_tokens=50, temperature=1.0)
        begun = asyncio.ensure_future(anext(samples))
        await asyncio.sleep(0)  # both are started, neither has had its turn
        assert given.budget.cap(None) == 0
        begun.cancel()
        await asyncio.gather(begun, return_exceptions=True)

    asyncio.run(given_up())
    assert given.budget.cap(None) == 100 - given.budget.tokens


def test_the_number_of_samples_is_limited():
    given = tools(Script(lambda *_: "a"), limits={"samples": 2})
    assert len(run(draw([QUESTION] * 5, given, max_tokens=None, temperature=1.0))) == 2
    assert given.budget.stopped_by == "samples"


def test_closing_cancels_the_samples_that_run():
    model = Script(lambda _, number: "a" if number == 0 else "b " * 500, wait_s=0.01)

    async def first_only():
        async with aclosing(draw([QUESTION] * 5, tools(model), max_tokens=None, temperature=1.0)) as samples:
            async for sample in samples:
                return sample

    assert asyncio.run(first_only()).text == "a"
    assert (model.running, model.closed) == (0, 4)


def test_the_failure_of_one_ends_all():
    model = Script(lambda _, number: RuntimeError("engine") if number == 1 else "b " * 500, wait_s=0.01)
    with pytest.raises(RuntimeError, match="engine"):
        run(draw([QUESTION] * 3, tools(model), max_tokens=None, temperature=1.0))
    assert model.running == 0


def test_a_generation_that_is_given_up_is_counted_by_its_pieces():
    model, budget = Script("a b c d e f g"), Budget(Limits(tokens=100))

    async def two():
        async with aclosing(metered(model, budget)(QUESTION)) as pieces:
            await anext(pieces)
            await anext(pieces)

    asyncio.run(two())
    assert budget.tokens == 2 and budget.cap(None) == 98
