"""Over fakes: which requests leave a trace, and what it says of answers, streams, failures and those who leave."""

import asyncio
from dataclasses import replace

import pytest

from components.serving.ingress import Ingress
from components.serving.tracing import Tracing
from components.spans import Span

ASK = [{"role": "user", "content": "What does list.sort do?"}]


class Kept:
    """Stands where traces are written."""

    def __init__(self):
        self.traces, self.closed = [], 0

    def add(self, whole, tags):
        self.traces.append((whole, tags))

    def close(self):
        self.closed += 1


@pytest.fixture
def traced(server, monkeypatch):
    """(client, engine, search, traces) of a server that traces every request."""
    kept = Kept()
    monkeypatch.setattr(Tracing, "open", lambda _: kept)
    client, engine, search = server(tracing=Tracing(1.0, "sqlite://", "tests", "."))

    async def traced_search(query, k, mode, where):
        return await search.search.remote(query, k, mode, where), [Span("search", "CHAIN", ended_ns=1)]

    search.traced_search = type("Handle", (), {"remote": staticmethod(traced_search)})
    return client, engine, search, kept.traces


def _post(client, **body):
    return asyncio.run(client.post("/v1/chat/completions", json={"model": "rag", "messages": ASK, **body}))


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_leaves_its_steps(traced, stream: bool) -> None:
    client, engine, _, traces = traced
    answer = _post(client, stream=stream)
    ((whole, tags),) = traces
    assert [part.name for part in whole.parts] == ["retrieve", "generate", "verify"]
    retrieve, generate, verify = whole.parts
    assert whole.inputs["question"] == "What does list.sort do?" and whole.outputs["answer"] == engine.reply
    assert [part.name for part in retrieve.parts] == ["search"]
    assert retrieve.outputs[0]["metadata"]["passage_id"]
    assert generate.outputs == engine.reply and generate.inputs["messages"] == engine.bodies[0]["messages"]
    assert verify.outputs["citations"][0]["marker"] == 1
    assert not whole.error and whole.ended_ns >= verify.ended_ns >= generate.ended_ns >= generate.started_ns
    assert tags["lineage_id"] == "rag" * 8 and tags["request_id"] in answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_is_in_the_trace(traced, stream: bool) -> None:
    client, engine, _, traces = traced
    engine.failure = RuntimeError("out of memory")
    assert _post(client, stream=stream).status_code >= 500
    ((whole, _),) = traces
    assert whole.error and whole.parts[-1].name == "generate" and whole.parts[-1].error


def test_who_leaves_in_mid_answer_has_a_trace_too(traced) -> None:
    client, _, search, traces = traced
    asked = asyncio.Event()

    async def hang(*_):
        asked.set()
        await asyncio.Event().wait()

    search.traced_search.remote = hang

    async def leave():
        asking = asyncio.create_task(client.post("/v1/chat/completions", json={"model": "rag", "messages": ASK}))
        await asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(leave())
    ((whole, _),) = traces
    assert whole.error.startswith("CancelledError") and whole.ended_ns is not None


def test_a_replica_that_ray_serve_stops_writes_its_last_traces(plan, fakes, monkeypatch) -> None:
    kept = Kept()
    monkeypatch.setattr(Tracing, "open", lambda _: kept)
    engine, search = fakes
    ingress = Ingress(replace(plan, tracing=Tracing(1.0, "sqlite://", "tests", ".")), engine(), search())
    ingress.__del__()
    assert kept.closed == 1


def test_the_share_is_by_the_requests_id() -> None:
    half = Tracing(0.5, "", "", "")
    taken = [half.takes(f"request-{number}") for number in range(1000)]
    assert 440 < sum(taken) < 560
    assert taken == [half.takes(f"request-{number}") for number in range(1000)]
    assert not any(Tracing(0.0, "", "", "").takes(f"request-{number}") for number in range(100))
