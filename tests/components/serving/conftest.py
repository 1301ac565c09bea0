"""An ingress over a scripted engine and a scripted index: HTTP edges without a model."""

import asyncio
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from components.serving.ingress import Ingress, ServingPlan
from components.serving.settings import EngineOptions, SearchOptions, ServedName

PASSAGES = [
    {
        "passage_id": "p1",
        "text": "Sort a list in place.",
        "title": "list.sort",
        "symbol": "list.sort",
        "source": "builtins",
        "score": 0.9,
    },
    {
        "passage_id": "p2",
        "text": "Remove a file.",
        "title": "os.remove",
        "symbol": "os.remove",
        "source": "os",
        "score": 0.4,
    },
]


class Parts:
    """What a streaming call on a Serve handle returns: iterable, and cancellable."""

    def __init__(self, engine, items):
        self._engine, self._items = engine, items

    def __aiter__(self):
        return self._run()

    async def _run(self):
        for item in self._items:
            if isinstance(item, Exception):
                raise item
            if item == "hang":
                await asyncio.sleep(30)
                continue
            await asyncio.sleep(0)
            yield item

    def cancel(self):
        self._engine.cancelled += 1


class FakeEngine:
    """Answers every request with `reply` in words, keeps the bodies, and fails as it is told to."""

    def __init__(self):
        self.reply, self.failure, self.tail = "It sorts a list in place [1].", None, []
        self.bodies, self.cancelled = [], 0
        self.attached, self.refusal, self.before = [], "", lambda: None
        self.generate = SimpleNamespace(remote=self._generate)
        self.load = SimpleNamespace(remote=self._load)
        self.attach = SimpleNamespace(remote=self._attach)

    def options(self, *, stream):
        assert stream
        return self

    def _generate(self, body, kind, adapter):
        self.bodies.append({**body, "kind": kind, "adapter": adapter})
        self.before()
        if self.failure is not None:
            return Parts(self, [self.failure])
        words, limit = self.reply.split(" "), body.get("max_tokens")
        usage = {"prompt_tokens": 11, "completion_tokens": min(len(words), limit or len(words))}
        if not body.get("stream"):
            choice = {"index": 0, "finish_reason": "stop", "logprobs": None}
            choice["finish_reason"] = "stop" if limit is None or len(words) <= limit else "length"
            choice |= {"message": {"content": " ".join(words[:limit])}} if kind == "chat" else {"text": self.reply}
            return Parts(
                self, [{"response": {"choices": [choice], "usage": usage, "id": "engine's", "model": "engine"}}]
            )
        chunks = [_delta(word if i == 0 else " " + word) for i, word in enumerate(words[:limit])]
        reason = "stop" if limit is None or len(words) <= limit else "length"
        chunks += [_delta("", reason), {"choices": [], "usage": usage}]
        return Parts(
            self, [*({"lines": [_line(chunk)]} for chunk in chunks), *self.tail, {"lines": ["data: [DONE]\n\n"]}]
        )

    async def _attach(self, adapter):
        if self.failure is not None:
            raise self.failure
        self.attached.append(adapter)
        return self.refusal

    async def _load(self):
        return {"running": 0, "started": len(self.bodies), "cancelled": 0}


def _delta(text, reason=None):
    return {"choices": [{"index": 0, "delta": {"content": text}, "text": text, "finish_reason": reason}]}


def _line(chunk):
    return f"data: {json.dumps(chunk)}\n\n"


class FakeSearch:
    """Returns the same passages for every question, and vectors of two numbers."""

    def __init__(self):
        self.asked, self.where, self.failure = [], None, None
        self.search = SimpleNamespace(remote=self._search)
        self.embed = SimpleNamespace(remote=self._embed)

    async def _search(self, query, k, mode, where):
        self.asked.append((query, k, mode))
        self.where = where
        if self.failure is not None:
            raise self.failure
        return PASSAGES[:k]

    async def _embed(self, texts, whole=False):
        return {"vectors": [[1.0, -0.5]] * len(texts), "tokens": 3 * len(texts)}


@pytest.fixture
def fakes():
    """The classes of the scripted engine and index."""
    return FakeEngine, FakeSearch


@pytest.fixture
def plan(tmp_path, tiny_model_dir):
    """Three names: plain, with an index, and with an index and reasoning."""
    names = (
        ServedName(name="plain"),
        ServedName(name="rag", search=SearchOptions(passages=2)),
        ServedName(name="cot", search=SearchOptions(passages=2), strategy="zero_shot_cot"),
    )
    lineage = {name.name: {"model": name.name, "lineage_id": name.name * 8} for name in names}
    uri = str(tmp_path / "lancedb")
    model = str(tiny_model_dir)
    return ServingPlan(model, names, EngineOptions(), uri, f"{uri}#passages@1", "embedder", lineage=lineage)


@pytest.fixture
def server(plan):
    """A function from changes to the plan to (HTTP client, engine, search) of an ingress over fakes."""
    import httpx

    from components.serving.routes import build_asgi_app

    def make(scorer=None, ledger=None, **changes):
        engine, search = FakeEngine(), FakeSearch()
        app = build_asgi_app(Ingress(replace(plan, **changes), engine, search, scorer, ledger))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://test"), engine, search

    return make
