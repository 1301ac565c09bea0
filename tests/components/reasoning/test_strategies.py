"""Strategies against a fake model and a fake index: what they ask, in which order, and what they pass on."""

import asyncio

import pytest

from components.config import UserError
from components.reasoning.budget import reasoning_share, what_is_left
from components.reasoning.events import Found, Piece, Tools, last_question
from components.reasoning.menu import names, strategy
from components.reasoning.strategies.direct import direct
from components.reasoning.strategies.zero_shot_cot import zero_shot_cot

QUESTION = [{"role": "user", "content": "What does f do?"}]


class FakeModel:
    """Answers each call with the next scripted text, a word at a time, and keeps what it was asked."""

    def __init__(self, *texts: str) -> None:
        self.texts, self.calls = list(texts), []

    async def __call__(self, messages, *, max_tokens=None, temperature=None, stop=(), final=False):
        self.calls.append((messages, max_tokens))
        words = self.texts[len(self.calls) - 1].split(" ")
        for word in words:
            yield Piece(word + " ")
        yield Piece(finish_reason="stop", prompt_tokens=10, completion_tokens=len(words))


def ground(messages, passages):
    listed = " ".join(passage["text"] for passage in passages)
    return [{"role": "user", "content": f"{listed} | {messages[-1]['content']}"}]


async def retrieve(question):
    return [{"passage_id": "p1", "text": f"about {question}"}]


def run(events):
    async def collect():
        return [event async for event in events]

    return asyncio.run(collect())


def text(events, channel):
    return "".join(e.text for e in events if isinstance(e, Piece) and e.channel == channel)


def test_direct_without_an_index_hands_the_messages_on_unchanged():
    model = FakeModel("it sorts")
    events = run(direct(QUESTION, Tools(model, None, ground, 7)))
    assert model.calls == [(QUESTION, 7)]
    assert text(events, "content") == "it sorts "
    assert not [event for event in events if isinstance(event, Found)]


def test_direct_with_an_index_tells_the_passages_before_the_answer():
    model = FakeModel("it sorts")
    events = run(direct(QUESTION, Tools(model, retrieve, ground, None)))
    assert isinstance(events[0], Found) and events[0].passages[0]["passage_id"] == "p1"
    assert model.calls[0][0][0]["content"] == "about What does f do? | What does f do?"


def test_cot_reasons_first_and_answers_with_what_it_thought():
    model = FakeModel("passage one says it", "It sorts [1].")
    events = run(zero_shot_cot(QUESTION, Tools(model, retrieve, ground, None), max_reasoning_tokens=20))
    assert text(events, "reasoning") == "passage one says it "
    assert text(events, "content") == "It sorts [1]. "
    (asked,), answered = (call[0] for call in model.calls)
    grounded = {"role": "user", "content": "about What does f do? | What does f do?"}
    assert asked == {"role": "user", "content": f"{grounded['content']}\n\nLet's think step by step."}
    assert answered == [asked, {"role": "assistant", "content": "passage one says it"}, grounded]
    assert model.calls[0][1] == 20


def test_cot_counts_both_passes_against_the_clients_limit():
    model = FakeModel("a b c", "d")
    run(zero_shot_cot(QUESTION, Tools(model, None, ground, 10), max_reasoning_tokens=20))
    assert [limit for _, limit in model.calls] == [5, 7]  # half of 10; 10 less the 3 words written


def test_cot_keeps_the_reasonings_end_and_extras_to_itself():
    async def model(messages, *, max_tokens=None, final=False):
        yield Piece("x", finish_reason="length", completion_tokens=1, extra={"logprobs": {}})

    first, second = run(zero_shot_cot(QUESTION, Tools(model, None, ground, None)))
    assert (first.channel, first.finish_reason, first.extra) == ("reasoning", None, {})
    assert (second.channel, second.finish_reason) == ("content", "length")


def test_cot_without_a_thought_answers_the_prompt_itself():
    model = FakeModel("", "d")
    run(zero_shot_cot(QUESTION, Tools(model, None, ground, None)))
    assert model.calls[1][0] == QUESTION


def test_cot_leaves_the_clients_messages_alone():
    messages = [{"role": "user", "content": "q"}]
    run(zero_shot_cot(messages, Tools(FakeModel("a", "b"), None, ground, None)))
    assert messages == [{"role": "user", "content": "q"}]


@pytest.mark.parametrize(("limit", "own", "expected"), [(None, 96, 96), (1000, 96, 96), (20, 96, 10), (1, 96, 1)])
def test_reasoning_takes_at_most_half(limit, own, expected):
    assert reasoning_share(limit, own) == expected


@pytest.mark.parametrize(("limit", "used", "expected"), [(None, 50, None), (100, 30, 70), (10, 10, 1)])
def test_an_answer_gets_what_is_left(limit, used, expected):
    assert what_is_left(limit, used) == expected


def test_the_question_is_the_last_user_turn_and_parts_are_joined():
    messages = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": [{"type": "text", "text": "second"}, {"type": "text", "text": "part"}]},
        {"role": "assistant", "content": "draft"},
    ]
    assert last_question(messages) == "second\npart"
    assert last_question([{"role": "system", "content": "s"}]) == ""


def test_the_menu_is_the_folder():
    assert {"direct", "zero_shot_cot"} <= set(names())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("guess", {}, "there is no reasoning strategy 'guess': choose one of .*direct.*zero_shot_cot"),
        ("zero_shot_cot", {"max_tokens": 3}, "its options are max_reasoning_tokens, trigger"),
        ("direct", {"trigger": "x"}, "it has no options"),
        ("zero_shot_cot", {"max_reasoning_tokens": "many"}, "got 'many'"),
    ],
)
def test_what_the_menu_does_not_have_is_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        strategy(name, options)


def test_options_reach_the_strategy():
    model = FakeModel("a", "b")
    run(strategy("zero_shot_cot", {"max_reasoning_tokens": 3})(QUESTION, Tools(model, None, ground, None)))
    assert model.calls[0][1] == 3
