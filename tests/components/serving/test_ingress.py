"""The endpoints over fakes: OpenAI's shapes, one error object for every failure, citations, feedback, keys."""

import asyncio
import base64
import json
import struct
import time

import pytest

CHAT = "/v1/chat/completions"
ASK = [{"role": "user", "content": "What does list.sort do?"}]


def call(client, method, path, **kwargs):
    async def send():
        return await client.request(method, path, **kwargs)

    return asyncio.run(send())


def chat(client, model, **fields):
    return call(client, "POST", CHAT, json={"model": model, "messages": ASK, **fields})


def events(response):
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def test_models_lists_the_declared_names_and_each_can_be_asked_for(server):
    client, _, _ = server()
    listed = call(client, "GET", "/v1/models").json()
    assert listed["object"] == "list" and [card["id"] for card in listed["data"]] == ["plain", "rag", "cot"]
    assert call(client, "GET", "/v1/models/rag").json()["object"] == "model"
    assert call(client, "GET", "/v1/models/nope").status_code == 404


def test_a_plain_name_passes_messages_on_and_answers_in_openais_shape(server):
    client, engine, search = server()
    response = chat(client, "plain", max_tokens=9, temperature=0.5, top_p=0.9, stop=["x"])
    body = response.json()
    assert body["object"] == "chat.completion" and body["model"] == "plain"
    assert body["choices"][0]["message"]["content"] == "It sorts a list in place [1]."
    assert "citations" not in body["choices"][0]["message"]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"], body["usage"]["total_tokens"]) == (
        11,
        7,
        18,
    )
    assert response.headers["x-raylign-lineage"] == "plain" * 8
    sent = engine.bodies[0]
    assert sent["messages"] == ASK and search.asked == []
    assert (sent["max_tokens"], sent["temperature"], sent["top_p"], sent["stop"]) == (9, 0.5, 0.9, ["x"])


def test_a_name_with_an_index_grounds_the_last_user_turn_and_cites(server):
    client, engine, search = server()
    history = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        *ASK,
    ]
    message = chat(client, "rag", messages=history).json()["choices"][0]["message"]
    assert search.asked == [("What does list.sort do?", 2, "hybrid")]
    sent = engine.bodies[0]["messages"]
    assert [turn["role"] for turn in sent] == ["system", "user", "assistant", "user"]
    assert sent[0]["content"].endswith("Be brief.") and sent[1]["content"] == "Hello"
    assert "[1] list.sort: Sort a list in place." in sent[-1]["content"]
    assert sent[-1]["content"].endswith("Question: What does list.sort do?")
    (citation,) = message["citations"]
    assert citation["quote"] == "Sort a list in place." and citation["verified"]
    assert (citation["passage_id"], citation["source"], citation["score"]) == ("p1", "builtins", 0.9)


def test_reasoning_comes_apart_from_content_under_both_names(server):
    client, engine, _ = server()
    body = chat(client, "cot").json()
    message = body["choices"][0]["message"]
    assert message["reasoning"] == message["reasoning_content"] == message["content"] == "It sorts a list in place [1]."
    assert len(engine.bodies) == 2
    assert body["usage"]["completion_tokens"] == 14
    assert body["usage"]["completion_tokens_details"]["reasoning_tokens"] == 7
    assert "reasoning" not in chat(client, "cot", include_reasoning=False).json()["choices"][0]["message"]


def test_a_stream_opens_with_the_role_and_closes_with_citations_usage_and_done(server):
    client, _, _ = server()
    response = chat(client, "rag", stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["x-raylign-lineage"] == "rag" * 8
    chunks = events(response)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"])
    assert text == "It sorts a list in place [1]."
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-2]["choices"][0]["delta"]["citations"][0]["passage_id"] == "p1"
    assert chunks[-1]["choices"] == [] and chunks[-1]["usage"]["total_tokens"] == 18
    assert {c["object"] for c in chunks} == {"chat.completion.chunk"} and len({c["id"] for c in chunks}) == 1
    assert [c["choices"][0]["finish_reason"] for c in chunks[:-2]] == [None] * (len(chunks) - 2)


def test_a_stream_without_the_option_has_no_usage(server):
    client, _, _ = server()
    assert all("usage" not in chunk for chunk in events(chat(client, "plain", stream=True)))


def test_a_reasoning_stream_sends_reasoning_before_content(server):
    client, _, _ = server()
    deltas = [c["choices"][0]["delta"] for c in events(chat(client, "cot", stream=True))]
    kinds = ["reasoning" if "reasoning" in d else "content" for d in deltas if d.get("reasoning") or d.get("content")]
    assert kinds == ["reasoning"] * 7 + ["content"] * 7


def test_n_choices_search_once_and_get_seeds_of_their_own(server):
    client, engine, search = server()
    body = chat(client, "rag", n=3, seed=5).json()
    assert [choice["index"] for choice in body["choices"]] == [0, 1, 2]
    assert sorted(sent["seed"] for sent in engine.bodies) == [5, 6, 7]
    assert len(search.asked) == 1
    assert (body["usage"]["prompt_tokens"], body["usage"]["completion_tokens"]) == (11, 21)
    streamed = events(chat(client, "plain", n=2, stream=True))
    for index in (0, 1):
        mine = [c["choices"][0] for c in streamed if c["choices"][0]["index"] == index]
        assert "".join(c["delta"].get("content", "") for c in mine) == "It sorts a list in place [1]."
        assert mine[-1]["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("fields", "status", "code", "param"),
    [
        ({"model": "nope"}, 404, "model_not_found", "model"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": "hi"}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "user", "content": ["hi"]}], "model": "rag"}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 3}]}]}, 400, "invalid_value", "messages"),
        ({"temperature": 9}, 400, "invalid_value", "temperature"),
        ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
        ({"n": 0}, 400, "invalid_value", "n"),
        ({"stream_options": {"include_usage": True}}, 400, "invalid_value", None),
        ({"model": None}, 400, "invalid_value", "model"),
        ({"model": "rag", "messages": [{"role": "system", "content": "s"}]}, 400, None, "messages"),
    ],
)
def test_a_wrong_request_is_an_openai_error_that_names_the_parameter(server, fields, status, code, param):
    client, engine, _ = server()
    response = call(client, "POST", CHAT, json={"model": "plain", "messages": ASK, **fields})
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param)
    assert error["type"] == "invalid_request_error" and error["message"]
    assert engine.bodies == []


def test_a_missing_field_broken_json_and_an_unknown_path_are_openai_errors(server):
    client, _, _ = server()
    missing = call(client, "POST", CHAT, json={"model": "plain"})
    assert missing.json()["error"]["param"] == "messages" and missing.status_code == 400
    broken = call(client, "POST", CHAT, content="{", headers={"content-type": "application/json"})
    assert broken.json()["error"]["code"] == "invalid_json" and broken.status_code == 400
    for method, path, status in (("GET", "/v1/nothing", 404), ("GET", CHAT, 405)):
        response = call(client, method, path)
        assert response.status_code == status and response.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["plain", "cot"])
def test_failures_before_the_first_token_decide_the_status(server, stream, model):
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import BackPressureError

    cases = [
        (BackPressureError(9, 9), 429, "rate_limit_exceeded"),
        (RayActorError(), 503, "engine_unavailable"),
        (RuntimeError("secret path /x"), 500, "internal_error"),
        (
            {"error": {"message": "maximum context length is 8", "code": 400, "param": "messages"}},
            400,
            "context_length_exceeded",
        ),
    ]
    for failure, status, code in cases:
        client, engine, _ = server()
        engine.failure = failure
        response = chat(client, model, stream=stream)
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (status, code)
        assert "secret" not in response.text
        if status == 429:
            assert int(response.headers["retry-after"]) >= 1 and error["type"] == "rate_limit_error"


def test_a_failure_in_the_middle_of_a_stream_is_its_last_event(server):
    client, engine, _ = server()
    engine.tail = [RuntimeError("boom")]
    lines = [line for line in chat(client, "plain", stream=True).text.split("\n\n") if line]
    assert json.loads(lines[-1].removeprefix("data: "))["error"]["type"] == "server_error"
    assert "boom" not in lines[-1]


def test_a_failing_index_is_an_error_and_not_an_ungrounded_answer(server):
    client, engine, search = server()
    search.failure = RuntimeError("index gone")
    assert chat(client, "rag").status_code == 500 and engine.bodies == []


def test_a_client_that_leaves_stops_its_generation(server):
    client, engine, _ = server()
    engine.tail = ["hang"]

    async def leave():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(client.post(CHAT, json={"model": "plain", "messages": ASK}), 0.2)
        await asyncio.sleep(0.05)

    engine.failure = "hang"
    asyncio.run(leave())
    assert engine.cancelled == 1


def test_text_completions_go_to_the_bare_engine_under_the_clients_name(server):
    client, engine, _ = server()
    response = call(client, "POST", "/v1/completions", json={"model": "plain", "prompt": "Once", "max_tokens": 4})
    body = response.json()
    assert (
        body["choices"][0]["text"].startswith("It sorts")
        and body["model"] == "plain"
        and body["id"].startswith("cmpl-")
    )
    assert engine.bodies[0]["kind"] == "completion" and engine.bodies[0]["prompt"] == "Once"
    chunks = events(call(client, "POST", "/v1/completions", json={"model": "plain", "prompt": "Once", "stream": True}))
    assert {chunk["model"] for chunk in chunks} == {"plain"}
    refused = call(client, "POST", "/v1/completions", json={"model": "rag", "prompt": "Once"})
    assert refused.status_code == 400 and refused.json()["error"]["code"] == "unsupported_endpoint"


def test_embeddings_as_numbers_and_as_base64(server):
    client, _, _ = server()
    ask = {"model": "embedder", "input": ["a", "b"]}
    body = call(client, "POST", "/v1/embeddings", json=ask).json()
    assert [row["embedding"] for row in body["data"]] == [[1.0, -0.5]] * 2 and body["usage"]["total_tokens"] == 6
    packed = call(client, "POST", "/v1/embeddings", json={**ask, "encoding_format": "base64"}).json()
    assert struct.unpack("<2f", base64.b64decode(packed["data"][0]["embedding"])) == (1.0, -0.5)
    assert call(client, "POST", "/v1/embeddings", json={**ask, "model": "plain"}).status_code == 404


def test_a_text_that_the_embedder_cannot_read_whole_is_the_clients_error(server):
    from components.config import UserError

    async def embed(texts, whole=False):
        if whole:
            raise UserError("input 0 has 300 tokens")
        return {"vectors": [[1.0]], "tokens": 300}

    client, _, search = server()
    search.embed.remote = embed
    refused = call(client, "POST", "/v1/embeddings", json={"model": "embedder", "input": "a"})
    assert refused.status_code == 400 and "300 tokens" in refused.json()["error"]["message"]


def test_search_returns_passages_with_scores_and_the_index_version(server):
    client, _, _ = server()
    body = call(client, "POST", "/v1/search", json={"query": "sort", "k": 1}).json()
    assert body["data"][0]["passage_id"] == "p1" and body["index"].endswith("#passages@1")
    assert call(client, "POST", "/v1/search", json={"query": "sort", "top": 3}).status_code == 400
    without, _, _ = server(index=None, names=())
    assert call(without, "POST", "/v1/search", json={"query": "q"}).json()["error"]["code"] == "no_index"


def test_a_search_is_narrowed_by_openais_filters_and_never_by_sql(server):
    client, _, search = server()
    fine = {"type": "eq", "key": "source", "value": "it's.md"}
    assert call(client, "POST", "/v1/search", json={"query": "q", "filters": fine}).status_code == 200
    assert search.where == "(`source` = 'it''s.md')"
    for wrong, where in (
        ({"type": "eq", "key": "vector", "value": "1"}, "filters.key"),
        ("source = 'a'", "filters"),
        ({"type": "and", "filters": []}, "filters.filters"),
        ({"type": "or", "filters": [fine, {**fine, "key": "sauce"}]}, "filters.filters.1.key"),
    ):
        refused = call(client, "POST", "/v1/search", json={"query": "q", "filters": wrong})
        assert refused.status_code == 400 and refused.json()["error"]["param"] == where


def test_lineage_tells_every_name_or_one(server):
    client, _, _ = server()
    assert len(call(client, "GET", "/v1/lineage").json()["data"]) == 3
    assert call(client, "GET", "/v1/lineage?model=rag").json()["data"][0]["lineage_id"] == "rag" * 8
    assert call(client, "GET", "/v1/lineage?model=nope").json()["error"]["code"] == "model_not_found"


def test_keys_guard_v1_and_nothing_else(server):
    from components.serving.keys import key_digest

    client, _, _ = server(key_digests=(key_digest("one"), key_digest("two")))
    for headers in ({}, {"authorization": "Bearer three"}, {"authorization": "Bearer "}):
        refused = call(client, "GET", "/v1/models", headers=headers)
        assert refused.status_code == 401 and refused.json()["error"]["code"] == "invalid_api_key"
    assert call(client, "GET", "/v1/models", headers={"authorization": "Bearer two"}).status_code == 200
    assert call(client, "GET", "/healthz").json()["status"] == "ok"
    assert call(client, "GET", "/metrics").status_code == 200


@pytest.mark.parametrize(
    ("load", "replicas", "status", "said"),
    [("waits", 1, 200, "busy"), ("full", 1, 200, "busy"), ("waits", 0, 503, None), ("dead", 1, 503, None)],
)
def test_a_full_engine_is_busy_and_only_one_that_does_not_run_is_ill(server, monkeypatch, load, replicas, status, said):
    from ray.exceptions import RayActorError
    from ray.serve.exceptions import BackPressureError

    async def asked():
        raise {"waits": TimeoutError(), "full": BackPressureError(9, 9), "dead": RayActorError()}[load]

    async def runs(_):
        return replicas > 0

    client, engine, _ = server()
    call(client, "GET", "/metrics")  # sets the gauges
    engine.load.remote = asked
    monkeypatch.setattr("components.serving.ingress.runs", runs)
    told = call(client, "GET", "/healthz")
    assert (told.status_code, told.json().get("status")) == (status, said)
    text = call(client, "GET", "/metrics").text
    assert "raylign_engine_requests{" not in text and "raylign_requests_in_flight" in text


def test_metrics_do_not_wait_for_a_full_engine(server):
    async def waits():
        await asyncio.sleep(30)

    client, engine, _ = server()
    engine.load.remote = waits
    began = time.perf_counter()
    assert call(client, "GET", "/metrics").status_code == 200
    assert time.perf_counter() - began < 5


def test_metrics_count_requests_tokens_citations_and_first_tokens(server):
    client, _, _ = server()
    chat(client, "rag")
    chat(client, "cot", stream=True)
    chat(client, "nope")
    text = call(client, "GET", "/metrics").text
    assert f'raylign_requests_total{{endpoint="{CHAT}",status="200"}} 2.0' in text
    assert f'raylign_requests_total{{endpoint="{CHAT}",status="404"}} 1.0' in text
    assert 'raylign_tokens_total{kind="completion",model="rag"} 7.0' in text
    assert 'raylign_tokens_total{kind="reasoning",model="cot"} 7.0' in text
    assert 'raylign_citations_total{model="rag",verdict="verified"} 1.0' in text
    assert 'raylign_time_to_first_token_seconds_count{model="cot"} 1.0' in text
    assert "raylign_engine_requests" in text
