"""Who has found nothing to answer from does not ask the model."""

import asyncio

import pytest

from components.config import UserError, parse
from components.data.grounding import ABSTENTION, abstains
from components.reasoning.budget import Budget, Limits
from components.reasoning.events import Found, Piece, Tools
from components.reasoning.metered import metered
from components.reasoning.strategies.direct import direct
from components.serving.abstaining import abstaining
from components.serving.settings import SearchOptions

QUESTION = [{"role": "user", "content": "What is it?"}]


def _run(passages: list[dict] | None) -> tuple[list, list]:
    asked = []

    async def generate(messages, **_):
        asked.append(messages)
        yield Piece("An answer [1].", finish_reason="stop")

    async def retrieve(_):
        return passages

    tools = Tools(generate, None if passages is None else retrieve, lambda messages, _: list(messages), 10)

    async def events():
        return [event async for event in abstaining(direct, QUESTION, tools)]

    return asyncio.run(events()), asked


@pytest.mark.parametrize("passages", [[], [{"passage_id": "a", "answerable": False}]])
def test_weak_passages_end_in_an_abstention_without_a_model(passages: list[dict]) -> None:
    (found, piece), asked = _run(passages)
    assert asked == [] and found == Found(tuple(passages))
    assert piece.text == ABSTENTION and piece.finish_reason == "stop" and abstains(piece.text)


@pytest.mark.parametrize("passages", [None, [{"passage_id": "a"}], [{"answerable": False}, {"answerable": True}]])
def test_strong_passages_and_names_without_an_index_are_answered(passages) -> None:
    events, asked = _run(passages)
    assert len(asked) == 1 and events[-1].text == "An answer [1]."


def test_a_threshold_goes_with_the_mode_that_it_was_fitted_for() -> None:
    assert parse(SearchOptions, {"mode": "auto", "abstain": True}).abstain
    with pytest.raises(UserError, match="not for mode 'hybrid': choose auto"):
        parse(SearchOptions, {"abstain": True})


def test_an_index_that_does_not_answer_in_time_has_not_found_nothing() -> None:
    async def hang(_):
        await asyncio.sleep(30)

    budget = Budget(Limits(seconds=0.1))
    tools = Tools(metered(hang, budget), hang, lambda messages, _: list(messages), 10, budget)

    async def events():
        return [event async for event in abstaining(direct, QUESTION, tools)]

    found, piece = asyncio.run(events())
    assert (found, piece.text, piece.finish_reason) == (Found(()), "", "length") and budget.stopped_by == "seconds"
