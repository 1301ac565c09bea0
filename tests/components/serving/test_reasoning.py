"""Every strategy behind /v1/chat/completions, over a scripted engine: reasoning, budgets, formats, tools."""

import asyncio
import json
from types import SimpleNamespace

import pytest

from components.config import UserError
from components.data.task_files import read_tasks
from components.reasoning.budget import Limits
from components.reasoning.menu import needs
from components.serving.app import check_names
from components.serving.scoring import ScoreServer
from components.serving.settings import SearchOptions, ServedName
from components.serving.similarity import Similarity
from components.serving.strategy_checks import check_tables
from components.serving.strategy_files import with_digests, with_files

CHAT = "/v1/chat/completions"
ASK = [{"role": "user", "content": "What is 2 + 3?"}]
EXAMPLES = [{"question": "What is 1 + 1?", "reasoning": "One more.", "answer": "2"}]
TABLE = {
    "version": 1,
    "model": "digest",
    "tasks": "t",
    "rows": [
        {"name": "thinking", "strategy": "zero_shot_cot", "options": {}, "kind": "all"}
        | {key: {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 9} for key in ("accuracy", "tokens", "seconds")}
    ],
}
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
BOTH = {"type": "object", "properties": {"reasoning": {"type": "string"}, "answer": {"type": "string"}}}

# strategy → (its options, what the engine replies in turn, the answer)
STRATEGIES = {
    "direct": ({}, ["five"], "five"),
    "zero_shot_cot": ({}, ["two and three", "five"], "five"),
    "few_shot_cot": ({"examples": EXAMPLES}, ["two and three Answer: five"], "five"),
    "self_consistency": ({"samples": 3}, ["so Answer: 4", "so Answer: 5", "so Answer: 5"], "5"),
    "best_of_n": ({"samples": 2}, ["poor", "good"], "good"),
    "least_to_most": ({}, ["1. What is 2?", "two", "five"], "five"),
    "program_aided": ({}, ["```python\nprint(2 + 3)\n```"], "5"),
    "react": ({}, ["Action: calculator[2 + 3]", "Final Answer: five"], "five"),
    "self_refine": ({}, ["four", "Wrong.", "five", "CORRECT"], "five"),
    "tree_of_thoughts": ({"depth": 1, "breadth": 1, "beam": 1}, ["Answer: 5", "sure"], "5"),
    "auto": ({"table": TABLE}, ["two and three", "five"], "five"),
    "self_rag": ({}, ["yes", "yes", "no", "five", "yes"], "five"),
    "agentic_rag": ({}, ["1. What is 2?", "ENOUGH", "five"], "five"),
}


class Judge:
    """A reward model that likes the word good."""

    def __init__(self):
        self.score = SimpleNamespace(remote=self._score)

    async def _score(self, messages, answers):
        return [float("good" in answer) for answer in answers]


@pytest.fixture
def serve(server):
    """A function from a strategy and the engine's replies to (HTTP client, engine)."""

    def make(strategy, options, replies, judge=None, **settings):
        if "retrieve" in needs(strategy, options):
            settings.setdefault("search", SearchOptions(passages=2))
        name = ServedName(name="it", strategy=strategy, options=options, **settings)
        lineage = {"it": {"model": "it", "lineage_id": "it" * 8}}
        client, engine, _ = server(judge or Judge(), names=(name,), lineage=lineage)
        turns = iter(replies)
        engine.before = lambda: setattr(engine, "reply", next(turns))
        return client, engine

    return make


def post(client, **fields):
    async def send():
        return await client.post(CHAT, json={"model": "it", "messages": ASK, **fields})

    return asyncio.run(send())


def chunks(response):
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]", lines[-1]
    return [json.loads(line) for line in lines[:-1]]


def joined(found, key):
    return "".join(c["choices"][0]["delta"].get(key) or "" for c in found if c["choices"])


def test_all_strategies_are_tried_here():
    from components.reasoning.menu import names

    assert set(STRATEGIES) == set(names())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_answers_under_a_name_of_its_own(serve, strategy):
    options, replies, answer = STRATEGIES[strategy]
    client, engine = serve(strategy, options, replies)
    body = post(client).json()
    message = body["choices"][0]["message"]
    assert message["content"] == answer and body["choices"][0]["finish_reason"] == "stop"
    assert message.get("reasoning") == message.get("reasoning_content")
    assert ("reasoning" in message) is (strategy != "direct")
    written = sum(len(reply.split(" ")) for reply in replies)
    usage = body["usage"]
    assert usage["completion_tokens"] == written and len(engine.bodies) == len(replies)
    assert 0 <= usage["completion_tokens_details"]["reasoning_tokens"] <= written
    assert "budget" not in body


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_each_strategy_streams_the_same(serve, strategy):
    options, replies, answer = STRATEGIES[strategy]
    client, _ = serve(strategy, options, replies)
    whole = post(client).json()
    client, _ = serve(strategy, options, replies)
    found = chunks(post(client, stream=True, stream_options={"include_usage": True}))
    assert joined(found, "content") == answer
    assert joined(found, "reasoning") == joined(found, "reasoning_content")
    assert joined(found, "reasoning") == whole["choices"][0]["message"].get("reasoning", "")
    assert found[-1]["usage"] == whole["usage"]
    kinds = [
        key for c in found if c["choices"] for key in ("reasoning", "content") if c["choices"][0]["delta"].get(key)
    ]
    assert kinds == sorted(kinds, reverse=True), "reasoning first, then content"


@pytest.mark.parametrize("strategy", ["self_consistency", "react", "few_shot_cot"])
def test_the_chain_can_be_hidden(serve, strategy):
    options, replies, answer = STRATEGIES[strategy]
    client, _ = serve(strategy, options, replies)
    body = post(client, include_reasoning=False).json()
    assert not {"reasoning", "reasoning_content"} & set(body["choices"][0]["message"])
    assert body["choices"][0]["message"]["content"] == answer
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0
    client, _ = serve(strategy, options, replies)
    found = chunks(post(client, include_reasoning=False, stream=True))
    assert joined(found, "reasoning") == "" and joined(found, "content") == answer


def test_answers_stream_token_by_token_while_they_are_made(serve):
    client, _ = serve("few_shot_cot", {"examples": EXAMPLES}, ["so Answer: one two three"])
    found = chunks(post(client, stream=True))
    told = [c["choices"][0]["delta"]["content"] for c in found if c["choices"][0]["delta"].get("content")]
    assert told == ["one", " two", " three"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_budget_is_kept_to_and_told(serve, stream):
    client, engine = serve("self_consistency", {"samples": 4}, ["Answer: 5"] * 4, budget=Limits(samples=3))
    response = post(client, budget={"samples": 2, "tokens": 100}, stream=stream)
    body = chunks(response)[-1] if stream else response.json()
    assert body["choices"][0]["finish_reason"] == "length" and len(engine.bodies) == 2
    assert body["budget"]["spent"] == "samples" and body["budget"]["limits"] == {"samples": 2, "tokens": 100}
    assert (body["budget"]["used"]["samples"], body["budget"]["used"]["tokens"]) == (2, 4)
    metrics = asyncio.run(client.get("/metrics")).text
    assert 'raylign_budgets_spent_total{limit="samples",model="it"} 1.0' in metrics


def test_a_budget_that_was_enough_is_told_and_stops_nothing(serve):
    client, _ = serve("direct", {}, ["it is five"], budget=Limits(tokens=50))
    body = post(client).json()
    assert body["choices"][0]["finish_reason"] == "stop" and body["budget"]["spent"] is None


def test_tokens_are_shared_by_all_that_a_request_does(serve):
    client, _ = serve("direct", {}, ["a b c d e f"] * 2, budget=Limits(tokens=4))
    body = post(client, n=2).json()
    assert body["usage"]["completion_tokens"] == 4 and body["budget"]["spent"] == "tokens"
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}


@pytest.mark.parametrize("stream", [False, True])
def test_no_choice_takes_the_tokens_of_another(serve, stream):
    client, engine = serve("self_consistency", {"samples": 8}, ["so Answer: 5"] * 16)
    response = post(client, n=2, budget={"tokens": 600}, stream=stream)
    if stream:
        told = chunks(response)
        answers = [joined([c for c in told if c["choices"][0]["index"] == index], "content") for index in (0, 1)]
    else:
        answers = [choice["message"]["content"] for choice in response.json()["choices"]]
    assert answers == ["5", "5"] and max(body["max_tokens"] for body in engine.bodies) <= 300


def test_time_gives_the_best_answer_so_far_without_a_stream(serve):
    client, engine = serve("direct", {}, ["one two"])
    engine.tail = ["hang"]
    body = post(client, budget={"seconds": 3.0}).json()
    assert (body["budget"]["spent"], body["choices"][0]["finish_reason"]) == ("seconds", "length")
    assert body["choices"][0]["message"]["content"] == "one two" and engine.bodies[0]["stream"] is True


@pytest.mark.parametrize("asked", [{"logprobs": True}, {"tools": [WEATHER]}])
@pytest.mark.parametrize("strategy", ["self_consistency", "zero_shot_cot", "react"])
def test_what_only_a_final_call_has_in_one_place_keeps_no_other_from_being_counted_by_pieces(serve, strategy, asked):
    options, replies, answer = STRATEGIES[strategy]
    client, engine = serve(strategy, options, replies)
    assert post(client, **asked).json()["choices"][0]["message"]["content"] == answer
    ends_whole = [strategy == "zero_shot_cot" and place == len(replies) - 1 for place in range(len(replies))]
    assert [not body["stream"] for body in engine.bodies] == ends_whole


def test_time_keeps_a_thought_that_is_written_for_a_client_with_logprobs(serve):
    client, engine = serve("zero_shot_cot", {}, ["two and three"])
    engine.tail = ["hang"]
    body = post(client, budget={"seconds": 3.0}, logprobs=True).json()
    assert body["choices"][0]["message"]["reasoning"] == "two and three"
    assert body["budget"]["used"]["tokens"] == 3 and body["budget"]["spent"] == "seconds"


@pytest.mark.parametrize("budget", [{"samples": 0}, {"seconds": -1}, {"token": 5}, "much"])
def test_a_budget_that_makes_no_sense_is_an_openai_error(serve, budget):
    client, engine = serve("direct", {}, ["x"])
    response = post(client, budget=budget)
    assert response.status_code == 400 and response.json()["error"]["param"].startswith("budget")
    assert engine.bodies == []


def test_a_client_that_leaves_cancels_all_samples(serve):
    client, engine = serve("self_consistency", {"samples": 4}, ["x"] * 4)
    engine.failure = "hang"

    async def leave():
        asking = asyncio.create_task(client.post(CHAT, json={"model": "it", "messages": ASK}))
        while len(engine.bodies) < 4:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0.1)

    asyncio.run(leave())
    assert (len(engine.bodies), engine.cancelled) == (4, 4)


def test_samples_get_seeds_and_temperatures_of_their_own_and_one_prompt(serve):
    client, engine = serve("self_consistency", {"samples": 3}, ["Answer: 5"] * 3)
    post(client, seed=7, temperature=0.0, n=2)
    seeds = [body["seed"] for body in engine.bodies]
    assert len(set(seeds)) == len(seeds) and {body["temperature"] for body in engine.bodies} == {0.7}
    assert all(body["messages"] == engine.bodies[0]["messages"] for body in engine.bodies)
    assert len({body["request_id"] for body in engine.bodies}) == len(engine.bodies)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("strategy", [name for name in STRATEGIES if name != "direct"])
def test_reasoning_and_answer_by_json_schema(serve, strategy, stream):
    options, replies, answer = STRATEGIES[strategy]
    client, engine = serve(strategy, options, replies)
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": BOTH}}
    response = post(client, response_format=wanted, stream=stream)
    text = joined(chunks(response), "content") if stream else response.json()["choices"][0]["message"]["content"]
    value = json.loads(text)
    assert set(value) == {"reasoning", "answer"} and value["answer"] == answer and value["reasoning"]
    assert not any("response_format" in body for body in engine.bodies)


def test_an_answer_that_is_a_number_in_the_schema_is_one(serve):
    schema = {"properties": {"reasoning": {"type": "string"}, "answer": {"type": "integer"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    client, _ = serve("program_aided", {}, ["```python\nprint(2 + 3)\n```"])
    assert json.loads(post(client, response_format=wanted).json()["choices"][0]["message"]["content"])["answer"] == 5
    client, _ = serve("zero_shot_cot", {}, ["hm", 'five "hundred"'])
    refused = post(client, response_format=wanted)
    assert refused.status_code == 500 and refused.json()["error"]["code"] == "answer_not_in_format"


def test_other_formats_are_kept_to_by_a_last_call_of_the_engine(serve):
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"properties": {"sum": {}}}}}
    client, engine = serve("self_consistency", {"samples": 1}, ["Answer: 5", '{"sum": 5}'])
    body = post(client, response_format=wanted, stop=["x"], logprobs=True).json()
    assert body["choices"][0]["message"]["content"] == '{"sum": 5}'
    assert ["response_format" in sent for sent in engine.bodies] == [False, True]
    assert ["logprobs" in sent for sent in engine.bodies] == ["stop" in sent for sent in engine.bodies] == [False, True]
    client, engine = serve("direct", {}, ["x"])
    post(client, response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": BOTH}})
    assert "response_format" in engine.bodies[0], "without a strategy the engine writes both"


@pytest.mark.parametrize("stream", [False, True])
def test_a_clients_tool_is_called_back_in_openais_shape(serve, stream):
    client, engine = serve("react", {}, ['Thought: ask\nAction: weather[{"city": "Paris"}]'])
    response = post(client, tools=[WEATHER], tool_choice="auto", stream=stream)
    if stream:
        found = chunks(response)
        (calls,) = [c["choices"][0]["delta"]["tool_calls"] for c in found if "tool_calls" in c["choices"][0]["delta"]]
        assert calls[0]["index"] == 0 and found[-1]["choices"][0]["finish_reason"] == "tool_calls"
    else:
        choice = response.json()["choices"][0]
        calls = choice["message"]["tool_calls"]
        assert "index" not in calls[0] and choice["finish_reason"] == "tool_calls"
    assert json.loads(calls[0]["function"]["arguments"]) == {"city": "Paris"}
    assert not any("tools" in body or "tool_choice" in body for body in engine.bodies)
    client, engine = serve("react", {}, ["Final Answer: rain"])
    history = [*ASK, {"role": "assistant", "content": None, "tool_calls": calls}]
    history.append({"role": "tool", "tool_call_id": calls[0]["id"], "content": "rain"})
    assert post(client, messages=history, tools=[WEATHER]).json()["choices"][0]["message"]["content"] == "rain"
    assert engine.bodies[0]["messages"][-1]["content"] == "Observation: rain"


def test_what_auto_chose_and_why_there_was_no_program_stand_beside_the_answer(serve):
    client, _ = serve("auto", {"table": TABLE}, ["hm", "five"])
    assert post(client).json()["choices"][0]["message"]["strategy"] == "thinking"
    client, _ = serve("program_aided", {"attempts": 1}, ["no", "five"])
    assert "no program" in post(client).json()["choices"][0]["message"]["program_error"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (ServedName(name="n", strategy="best_of_n"), "needs a reward model: give its folder with scorer="),
        (ServedName(name="n", strategy="self_consistency", options={"weights": "scores"}), "needs a reward model"),
        (ServedName(name="n", strategy="tree_of_thoughts", options={"value": "scores"}), "needs a reward model"),
        (ServedName(name="n", strategy="few_shot_cot", options={"examples": EXAMPLES}), "needs an embedder"),
        (ServedName(name="n", strategy="few_shot_cot"), "needs the option 'examples'"),
        (ServedName(name="n", strategy="react", options={"with_tools": ["search"]}), "needs an index"),
        (ServedName(name="n", strategy="react", options={"with_tools": ["fly"]}), "there is no tool 'fly'"),
        (
            ServedName(name="n", strategy="self_rag"),
            "answers by self_rag, which needs an index.*`search` with the name",
        ),
        (ServedName(name="n", strategy="agentic_rag"), "answers by agentic_rag, which needs an index"),
        (ServedName(name="n", strategy="agentic_rag", options={"depth": 2}), "has no option 'depth'"),
        (ServedName(name="n", strategy="self_rag", search=SearchOptions()), "searches, but there is no index"),
        (ServedName(name="n", strategy="auto"), "needs the option 'table'"),
        (ServedName(name="n", strategy="auto", options={"table": {"version": 7}}), "a table of version 1"),
        (ServedName(name="n", strategy="self_consistency", options={"samples": "many"}), "got 'many'"),
    ],
)
def test_a_name_without_what_its_strategy_needs_is_refused_before_anything_starts(name, message):
    with pytest.raises(UserError, match=message):
        check_names((name,), has_index=False)


def test_a_name_with_what_it_needs_passes():
    names = [
        ServedName(name="b", strategy="best_of_n"),
        ServedName(name="a", strategy="auto", options={"table": TABLE}),
    ]
    names.append(ServedName(name="f", strategy="few_shot_cot", options={"examples": EXAMPLES}))
    names.append(ServedName(name="r", strategy="react", options={"with_tools": ["search"]}, search=SearchOptions()))
    check_names(names, has_index=True, has=frozenset({"score", "similar", "retrieve"}))


def test_a_table_of_another_model_is_refused():
    name = ServedName(name="a", strategy="auto", options={"table": TABLE})
    check_tables([name], "digest")
    with pytest.raises(UserError, match="measured on another model"):
        check_tables([name], "other")


def test_files_of_options_are_read_once_and_named_by_their_digest(tmp_path):
    file, table = tmp_path / "e.jsonl", tmp_path / "t.json"
    file.write_text('{"question": "q", "answer": "48/2 = <<48/2=24>>24\\n#### 24"}\n')
    table.write_text(json.dumps(TABLE))
    few = ServedName(name="f", strategy="few_shot_cot", options={"examples": str(file)})
    auto = ServedName(name="a", strategy="auto", options={"table": str(table)})
    read = with_files([few, auto])
    assert read[0].options["examples"] == [{"question": "q", "reasoning": "48/2 = 24", "answer": "24"}]
    assert read[1].options["table"] == TABLE
    few_in_table = {**TABLE["rows"][0], "strategy": "few_shot_cot", "options": {"examples": str(file)}}
    nested = ServedName(name="a", strategy="auto", options={"table": {**TABLE, "rows": [few_in_table]}})
    (row,) = with_files([nested])[0].options["table"]["rows"]
    assert row["options"]["examples"] == read[0].options["examples"]
    first = with_digests(read[0]).options["examples"]
    file.write_text('{"question": "q", "answer": "25"}\n')
    assert first.startswith("sha256:") and with_digests(with_files([few])[0]).options["examples"] != first


def test_a_line_of_json_ends_where_json_lines_end(tmp_path):
    """U+2028 and U+0085 break lines for Python, and are plain characters in JSON; GSM8K has one."""
    file = tmp_path / "e.jsonl"
    rows = [{"question": "one\u2028line\u0085?", "answer": "1"}, {"question": "two", "answer": "2"}]
    file.write_text("\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows) + "\n", newline="")
    assert [row["question"] for row in read_tasks(str(file))] == ["one\u2028line\u0085?", "two"]


@pytest.mark.parametrize("text", ["", '{"question": "q"}', "no json", "[1]"])
def test_examples_that_are_none_are_refused(tmp_path, text):
    file = tmp_path / "e.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=r"e\.jsonl"):
        read_tasks(str(file))
    with pytest.raises(UserError, match="cannot be read"):
        read_tasks(str(tmp_path / "gone.jsonl"))


def test_similarity_is_the_cosine_and_embeds_examples_once():
    asked = []

    async def embed(texts):
        asked.append(texts)
        return [{"a": [2.0, 0.0], "b": [0.0, 3.0], "q": [1.0, 1.0]}[text] for text in texts]

    similar = Similarity(embed)
    for _ in range(2):
        assert asyncio.run(similar("q", ["a", "b", "a"])) == pytest.approx([0.5**0.5] * 3)
    assert asked == [["a", "b", "a"], ["q"], ["q"]]


@pytest.mark.parametrize("kind", ["outcome", "process"])
def test_a_reward_model_scores_by_its_mean_and_a_process_one_by_its_worst_step(kind):
    server = ScoreServer.__new__(ScoreServer)
    server._template = SimpleNamespace(
        text_of=lambda ids: "".join(chr(each) for each in ids),
        prompt_ids=lambda messages: [1],
        completion_ids=lambda messages, answer: [ord(sign) for sign in answer],
    )
    server._rewards = SimpleNamespace(
        info=SimpleNamespace(kind=kind, worst_std=()),
        score=lambda prompts, answers: [[[1.0, 3.0], [0.0, 0.0]]],
        score_steps=lambda prompts, answers, ends: [[[4.0, 4.0] for _ in own[:-1]] + [[-1.0, 1.0]] for own in ends],
    )
    scored = asyncio.run(server.score(ASK, ["one\ntwo", "three"]))
    assert scored == ([2.0, 0.0] if kind == "outcome" else [0.0, 0.0])
