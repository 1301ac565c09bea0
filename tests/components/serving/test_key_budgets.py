"""Budgets of keys: the ledger's arithmetic, and requests that end in every way over a scripted engine."""

import asyncio
import json
import logging
from types import SimpleNamespace

import pytest

from components.reasoning.budget import Limits
from components.serving.key_budgets import NOTHING, Ledger
from components.serving.keys import key_digest
from components.serving.settings import KeyBudgets, KeyLimits, ServedName

CHAT = "/v1/chat/completions"
ASK = [{"role": "user", "content": "What does list.sort do?"}]  # the scripted answer has 7 words, a token each
PLAIN = (ServedName(name="plain"),)
KEYS = {"sk-alice": "alice", "sk-bob": "bob"}


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


def ledger_of(clock=None, window_s=60.0, share=0.25, **limits):
    budgets = KeyBudgets(window_s=window_s, share=share, each=KeyLimits(**limits))
    return Ledger(budgets, clock or Clock())


def ask(ledger, receipt="r", name="alice", least_tokens=1, **wanted):
    return asyncio.run(ledger.reserve(name, receipt, {"requests": 1, **wanted}, least_tokens))


def bill(ledger, answer, receipt="r", name="alice", **used):
    asyncio.run(ledger.settle(name, receipt, answer["window"], used))


def left(ledger, kind, name="alice"):
    return ask(ledger, receipt="look", name=name, requests=0, **NOTHING, seconds=0)["standing"][kind][1]


def test_a_request_gets_what_it_wants_while_there_is_enough_and_what_is_left_then():
    ledger = ledger_of(tokens=100)
    assert ask(ledger, "a", tokens=80)["granted"] == {"tokens": 80}
    second = ask(ledger, "b", tokens=80)
    assert second["granted"] == {"tokens": 20} and second["standing"]["tokens"] == (100, 0, 60.0)
    refused = ask(ledger, "c", tokens=1)
    assert refused["refused"] == ["tokens"] and refused["retry_after_s"] is None  # what is reserved may come back
    assert ask(ledger, "d", name="bob", tokens=80)["granted"] == {"tokens": 80}
    bill(ledger, second, "b", tokens=5)
    assert left(ledger, "tokens") == 15


def test_a_request_that_nothing_bounds_takes_its_share_and_leaves_room_for_others():
    ledger = ledger_of(tokens=100, samples=2, seconds=8.0, share=0.25)
    granted = [ask(ledger, str(number))["granted"] for number in range(2)]
    assert granted == [{"tokens": 25, "samples": 1, "seconds": 2.0}] * 2  # a fourth of two samples is one at least
    assert ask(ledger, "2")["refused"] == ["samples"]
    assert ask(ledger, "3", **NOTHING)["granted"] == {"seconds": 2.0}


def test_a_spent_budget_tells_when_the_window_ends_and_the_next_is_whole():
    clock = Clock()
    ledger = ledger_of(clock, tokens=10, requests=5)
    bill(ledger, ask(ledger, tokens=10), tokens=10, requests=1)
    clock.now += 20
    refused = ask(ledger, tokens=5)
    assert (refused["refused"], refused["retry_after_s"]) == (["tokens"], 40.0)
    assert refused["standing"] == {"tokens": (10, 0, 40.0), "requests": (5, 4, 40.0)}
    clock.now += 40
    assert ask(ledger, tokens=5)["granted"] == {"tokens": 5, "requests": 1}


def test_what_is_reserved_in_a_window_counts_in_no_other():
    clock = Clock()
    ledger = ledger_of(clock, tokens=10)
    old = ask(ledger, "old", tokens=10)
    clock.now += 61
    assert left(ledger, "tokens") == 10
    bill(ledger, old, "old", tokens=10)
    assert left(ledger, "tokens") == 10


def test_nothing_is_held_for_a_request_whose_answer_got_lost_or_that_never_ends():
    clock = Clock()
    ledger = ledger_of(clock, window_s=86_400, tokens=10)
    ask(ledger, "lost", tokens=10)
    asyncio.run(ledger.settle("alice", "lost", None, {}))
    assert left(ledger, "tokens") == 10
    late = ask(ledger, "late", tokens=10)
    clock.now += 901
    assert left(ledger, "tokens") == 10
    bill(ledger, late, "late", tokens=4)  # it was only slow: it pays
    assert left(ledger, "tokens") == 6


def test_without_tool_calls_a_request_can_begin_and_with_fewer_tokens_than_texts_it_cannot():
    ledger = ledger_of(tool_calls=0, tokens=3)
    assert ask(ledger, tool_calls=None, tokens=3)["granted"] == {"tool_calls": 0, "tokens": 3}
    assert ask(ledger_of(tokens=3), tokens=8, least_tokens=4)["refused"] == ["tokens"]


def test_a_new_ledger_knows_nothing_of_the_old_ones_windows():
    """What a ledger that died had counted is gone; bills for it are not put on the next one's window."""
    old = ask(ledger_of(tokens=10), "old", tokens=10)
    ledger = ledger_of(tokens=10)
    assert left(ledger, "tokens") == 10
    bill(ledger, old, "old", tokens=10)
    assert left(ledger, "tokens") == 10


class Handle:
    """A ledger as a Serve handle calls it; `broken` makes it fail, `slow` never answer."""

    def __init__(self, ledger):
        self.ledger, self.broken, self.slow = ledger, False, False
        self.reserve = SimpleNamespace(remote=self._reserve)
        self.settle = SimpleNamespace(remote=self._settle)

    async def _reserve(self, *given):
        await self._fail()
        return await self.ledger.reserve(*given)

    async def _settle(self, *given):
        await self._fail()
        await asyncio.sleep(0.02)  # a bill takes its time, and is in before the client asks again all the same
        await self.ledger.settle(*given)

    async def _fail(self):
        if self.broken:
            raise RuntimeError("the actor died")
        if self.slow:
            await asyncio.sleep(30)


@pytest.fixture
def keyed(server):
    """A function from limits to (client with a key, engine, ledger's handle)."""

    def make(names=PLAIN, key="sk-alice", share=0.25, window_s=60.0, **limits):
        budgets = KeyBudgets(window_s=window_s, share=share, each=KeyLimits(**limits))
        handle = Handle(Ledger(budgets))
        digests = {key_digest(each): name for each, name in KEYS.items()}
        lineage = {name.name: {"model": name.name, "lineage_id": "l" * 8} for name in names}
        changes = {"key_digests": tuple(digests), "key_names": digests, "key_budgets": budgets}
        client, engine, _ = server(ledger=handle, names=names, lineage=lineage, **changes)
        client.headers["authorization"] = f"Bearer {key}"
        return client, engine, handle

    return make


def post(client, path=CHAT, key=None, **fields):
    body = {"model": "plain", **({"messages": ASK} if path == CHAT else {}), **fields}

    async def send():
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return await client.post(path, json=body, headers=headers)

    return asyncio.run(send())


def remaining(handle, kind):
    return left(handle.ledger, kind)


def events(response):
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_pays_for_what_it_wrote_and_not_for_what_it_reserved(keyed, stream):
    client, _, handle = keyed(tokens=1000, requests=2)
    response = post(client, max_tokens=100, stream=stream)
    assert response.status_code == 200 and remaining(handle, "tokens") == 993 and remaining(handle, "requests") == 1
    headers = response.headers
    assert (headers["x-ratelimit-limit-tokens"], headers["x-ratelimit-remaining-tokens"]) == ("1000", "900")
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("2", "1")
    assert 59 < float(headers["x-ratelimit-reset-requests"].removesuffix("s")) <= 60
    body = events(response)[-1] if stream else response.json()
    assert body["choices"][0]["finish_reason"] == "stop" and "budget" not in body


@pytest.mark.parametrize("stream", [False, True])
def test_a_key_whose_budget_is_spent_gets_429_until_its_window_ends_and_another_key_does_not(keyed, stream):
    client, engine, _ = keyed(requests=1)
    assert post(client).status_code == 200
    refused = post(client, stream=stream)
    error = refused.json()["error"]
    assert (refused.status_code, error["type"], error["code"]) == (429, "rate_limit_error", "rate_limit_exceeded")
    assert "'alice' has spent its requests" in error["message"] and 55 <= int(refused.headers["retry-after"]) <= 60
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"
    assert len(engine.bodies) == 1 and post(client, key="sk-bob").status_code == 200


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_gets_what_its_key_has_left_and_says_so(keyed, stream):
    client, engine, handle = keyed(tokens=10)
    assert post(client).status_code == 200  # 7 of them
    response = post(client, max_tokens=50, stream=stream)
    body = events(response)[-1] if stream else response.json()
    assert engine.bodies[-1]["max_tokens"] == 3 and body["choices"][0]["finish_reason"] == "length"
    assert body["budget"]["spent"] == "tokens" and body["budget"]["limits"] == {"tokens": 3}
    assert remaining(handle, "tokens") == 0 and post(client).status_code == 429


def test_an_answer_that_ends_by_the_clients_own_limit_does_not_blame_the_key(keyed):
    client, _, _ = keyed(tokens=100)
    body = post(client, max_tokens=3).json()
    assert body["choices"][0]["finish_reason"] == "length" and "budget" not in body


@pytest.mark.parametrize("stream", [False, True])
def test_samples_are_limited_by_the_key_and_the_vote_so_far_is_the_answer(keyed, stream):
    names = (ServedName(name="plain", strategy="self_consistency", options={"samples": 4}),)
    client, engine, handle = keyed(names, samples=2, share=1.0)
    engine.reply = "Answer: 5"
    response = post(client, stream=stream)
    body = events(response)[-1] if stream else response.json()
    assert len(engine.bodies) == 2 and body["budget"]["spent"] == "samples"
    assert body["choices"][0]["finish_reason"] == "length" and remaining(handle, "samples") == 0


def test_tools_are_limited_by_the_key(keyed):
    names = (ServedName(name="plain", strategy="program_aided", options={"attempts": 1}),)
    client, engine, handle = keyed(names, tool_calls=1, share=1.0)
    engine.reply = "```python\nprint(2 + 3)\n```"
    assert post(client).json()["choices"][0]["message"]["content"] == "5" and remaining(handle, "tool_calls") == 0
    body = post(client).json()
    assert body["budget"]["spent"] == "tool_calls" and body["budget"]["limits"] == {"tool_calls": 0}


def test_the_keys_time_ends_an_answer_with_what_there_is(keyed):
    client, engine, _ = keyed(seconds=1.0, share=1.0)
    engine.tail = ["hang"]
    body = post(client).json()
    assert body["budget"]["spent"] == "seconds" and body["choices"][0]["message"]["content"].startswith("It sorts")
    assert post(client).status_code == 429


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_server_could_not_answer_is_no_request_and_frees_what_it_held(keyed, stream):
    from ray.serve.exceptions import BackPressureError

    client, engine, handle = keyed(tokens=100, requests=1)
    for failure, status in ((RuntimeError("boom"), 500), (BackPressureError(9, 9), 429)):
        engine.failure = failure
        assert post(client, stream=stream).status_code == status
        assert (remaining(handle, "tokens"), remaining(handle, "requests")) == (100, 1)
    engine.failure = {"error": {"message": "maximum context length is 8", "code": 400}}
    assert post(client, stream=stream).status_code == 400
    assert (remaining(handle, "tokens"), remaining(handle, "requests")) == (100, 0)


def test_a_stream_that_fails_pays_for_what_it_sent(keyed):
    client, engine, handle = keyed(tokens=100, requests=5)
    engine.tail = [RuntimeError("boom")]
    assert "server_error" in post(client, stream=True).text
    assert (remaining(handle, "tokens"), remaining(handle, "requests")) == (93, 4)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_pays_for_what_was_written_and_holds_nothing(keyed, stream):
    client, engine, handle = keyed(tokens=100, requests=5)
    engine.tail = ["hang"]
    body = {"model": "plain", "messages": ASK, "stream": stream}

    async def leave():
        asking = asyncio.create_task(client.post(CHAT, json=body))
        while not engine.bodies:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0.1)

    asyncio.run(leave())
    assert engine.cancelled == 1
    # The fake's last chunks, with the count, came before it hung: all seven tokens.
    assert (remaining(handle, "tokens"), remaining(handle, "requests")) == (93, 4)


def test_a_client_that_leaves_before_the_ledger_answers_holds_nothing(keyed):
    client, engine, handle = keyed(tokens=100, requests=5)
    inner = handle.ledger.reserve

    async def late(*given):
        answer = await inner(*given)
        await asyncio.sleep(1)
        return answer

    handle.reserve.remote = late

    async def leave():
        asking = asyncio.create_task(client.post(CHAT, json={"model": "plain", "messages": ASK}))
        await asyncio.sleep(0.2)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.sleep(0.1)

    asyncio.run(leave())
    assert (remaining(handle, "tokens"), remaining(handle, "requests"), engine.bodies) == (100, 5, [])


def test_requests_at_the_same_time_never_get_more_than_there_is(keyed):
    """Ten of 7 tokens each find 30: whoever is refused is told so, and what was granted is at most 30."""
    client, engine, handle = keyed(tokens=30)

    async def all_at_once():
        body = {"model": "plain", "messages": ASK, "max_tokens": 12}
        return await asyncio.gather(*(client.post(CHAT, json=body) for _ in range(10)))

    answers = asyncio.run(all_at_once())
    assert {answer.status_code for answer in answers} == {200, 429}
    assert sum(body["max_tokens"] for body in engine.bodies) <= 30
    written = sum(a.json()["usage"]["completion_tokens"] for a in answers if a.status_code == 200)
    assert remaining(handle, "tokens") == 30 - written
    assert all("reserved" in a.json()["error"]["message"] for a in answers if a.status_code == 429)


@pytest.mark.parametrize("stream", [False, True])
def test_text_completions_are_counted_and_capped_for_all_their_texts(keyed, stream):
    client, engine, handle = keyed(tokens=20)
    given = {"path": "/v1/completions", "prompt": ["a", "b"], "n": 2}
    response = post(client, **given, max_tokens=9, stream=stream)
    assert response.status_code == 200 and engine.bodies[0]["max_tokens"] == 5  # 20 for four texts
    assert "usage" not in (events(response)[-1] if stream else {}) and remaining(handle, "tokens") == 15
    bill(handle.ledger, ask(handle.ledger, "x", tokens=12), "x", tokens=12)
    assert post(client, **given).status_code == 429 and remaining(handle, "tokens") == 3


def test_searches_and_embeddings_are_requests_and_lists_are_not(keyed):
    client, _, handle = keyed(requests=3, tokens=5)
    assert post(client, "/v1/search", model=None, query="q").status_code == 400
    for path, body in (("/v1/search", {"query": "q"}), ("/v1/embeddings", {"model": "embedder", "input": "a"})):

        async def send(path=path, body=body):
            return (await client.post(path, json=body)).status_code, (await client.get("/v1/models")).status_code

        assert asyncio.run(send()) == (200, 200)
    assert (remaining(handle, "requests"), remaining(handle, "tokens")) == (1, 5)


@pytest.mark.parametrize("how", ["broken", "slow"])
def test_while_the_ledger_is_away_new_requests_wait_and_those_that_run_end_well(keyed, how, monkeypatch):
    monkeypatch.setattr("components.serving.key_budgets._PATIENCE_S", 0.1)
    client, engine, handle = keyed(tokens=100)
    engine.before = lambda: setattr(handle, how, True)
    assert post(client, max_tokens=9).status_code == 200
    refused = post(client)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "budget_unavailable")
    assert int(refused.headers["retry-after"]) >= 1 and len(engine.bodies) == 1
    setattr(handle, how, False)
    engine.before = lambda: None
    assert post(client).status_code == 200


def test_a_key_is_in_no_log_and_no_metric_and_its_name_is(keyed, caplog):
    client, engine, handle = keyed(requests=2)
    with caplog.at_level(logging.DEBUG):
        post(client, max_tokens=5)
        engine.failure = RuntimeError("boom")
        post(client)
        engine.failure = None
        post(client)
        post(client)
        post(client, key="sk-wrong")
        handle.broken = True
        metrics = asyncio.run(client.get("/metrics")).text
    assert 'raylign_key_spent_total{key="alice",kind="tokens"} 12.0' in metrics
    assert 'raylign_key_refusals_total{key="alice",kind="requests"} 1.0' in metrics
    for secret in ("sk-alice", "sk-wrong", key_digest("sk-alice")):
        assert secret not in metrics and secret not in caplog.text


def test_a_key_without_limits_has_no_account(keyed):
    client, _, handle = keyed()
    handle.broken = True
    response = post(client)
    assert response.status_code == 200 and not any(name.startswith("x-ratelimit") for name in response.headers)


def test_a_client_and_its_name_tighten_what_the_key_allows(keyed):
    names = (ServedName(name="plain", budget=Limits(tokens=4)),)
    client, engine, handle = keyed(names, tokens=100)
    body = post(client, budget={"tokens": 2}).json()
    assert engine.bodies[0]["max_tokens"] == 2 and body["budget"]["limits"] == {"tokens": 2}
    assert remaining(handle, "tokens") == 98
