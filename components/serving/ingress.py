"""The deployment that HTTP reaches: OpenAI's endpoints and ours over engine and index."""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from components.data.chat import ChatTemplate
from components.models.adapter_base import Carrier
from components.reasoning.events import Message
from components.serving.adapters import Adapter, Shelf
from components.serving.address import runs
from components.serving.chat import ChatService, NameSetup
from components.serving.completions import CompletionRun
from components.serving.errors import ApiError, from_exception, unknown_model
from components.serving.feedback import RecentRequests, append, feedback_row
from components.serving.filters import where_of
from components.serving.hot_swap import HotSwap
from components.serving.key_budgets import Account
from components.serving.lineage import with_adapter
from components.serving.metrics import Metrics
from components.serving.requests import CompletionRequest, EmbeddingRequest, FeedbackRequest, SearchRequest
from components.serving.room import PromptRoom
from components.serving.settings import EngineOptions, KeyBudgets, KeyLimits, Mode, ServedName
from components.serving.similarity import Similarity
from components.serving.tracing import Tracing
from components.spans import Span

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServingPlan:
    """All that the deployments need to know, worked out before anything starts; plain data."""

    model: str  # folder of the weights
    names: tuple[ServedName, ...]
    engine: EngineOptions
    feedback_uri: str  # the LanceDB folder that feedback goes to
    index: str | None = None  # table reference, its version pinned
    embedder: str | None = None  # folder of the embedder
    embedding_name: str = "embedder"
    chosen: dict[str, Any] | None = None  # what mode `auto` means for the index
    scorer: str | None = None  # folder of the reward model that strategies score answers with
    key_digests: tuple[str, ...] = ()
    admin_digests: tuple[str, ...] = ()  # of the keys that may change adapters
    key_names: dict[str, str] = field(default_factory=dict)  # by digest
    key_budgets: KeyBudgets = field(default_factory=KeyBudgets)
    lineage: dict[str, dict[str, Any]] = field(default_factory=dict)  # page of each name, as it begins
    plain_lineage: dict[str, Any] = field(default_factory=dict)  # page of the model as it is
    storage: str = "artifacts"  # where the registry and the copies of adapters are
    carrier: Carrier | None = None  # what adapters have to fit; none where the engine carries none
    adapters: tuple[Adapter, ...] = ()  # at the start; an `adapter` in `names` is the address of one of them
    aliases: dict[str, str] = field(default_factory=dict)  # name@alias → version
    adapter_memory: str | None = None  # file that keeps what changes later
    tracing: Tracing | None = None  # where chat requests leave traces, if any do


class Ingress:
    """Holds what the routes share; `serving.routes` maps HTTP onto its methods."""

    def __init__(
        self, plan: ServingPlan, engine: Any, search: Any | None, scorer: Any | None = None, ledger: Any | None = None
    ) -> None:
        from components.reasoning.menu import strategy

        logging.getLogger("ray.serve").setLevel(logging.WARNING)  # a line for each request otherwise
        self.plan, self.metrics, self.created = plan, Metrics(), int(time.time())
        self._engine, self._search, self._scorer, self._ledger = engine, search, scorer, ledger
        self._recent = RecentRequests()
        self._retry_after_s = plan.engine.retry_after_s
        self._setups = {
            name.name: NameSetup(name, strategy(name.strategy, name.options), plan.lineage[name.name]["lineage_id"])
            for name in plan.names
        }
        self._bare = NameSetup(ServedName(name="bare"), strategy("direct", {}), "")
        self._pages: dict[tuple[str, str], dict[str, Any]] = {}
        shelf = Shelf(plan.adapters, plan.aliases, [name.adapter for name in plan.names if name.adapter])
        self.swap = HotSwap(
            shelf,
            engine,
            plan.carrier,
            storage=plan.storage,
            taken=self._setups,
            memory=plan.adapter_memory,
            retry_after_s=self._retry_after_s,
        )
        find = self.find_passages if search is not None and plan.index else None
        score = self.score if scorer is not None else None
        similar = Similarity(self.vectors) if search is not None and plan.embedder else None
        searches = any(name.search for name in plan.names)
        room = PromptRoom(ChatTemplate.from_folder(plan.model), plan.engine.max_model_len) if searches else None
        self.chat = ChatService(
            engine, find, self.metrics, self._recent, self._retry_after_s, score, similar, plan.tracing, room
        )

    async def __serve_build_asgi_app__(self) -> Any:
        """Return the app that Ray Serve puts behind its proxy."""
        from components.serving.routes import build_asgi_app

        return build_asgi_app(self)

    def __del__(self) -> None:
        """End what goes on beside requests: Ray Serve calls this when it stops a replica."""
        if hasattr(self, "chat"):  # it isn't there where __init__ failed
            self.chat.close()

    def setup(self, name: str) -> NameSetup:
        """Return the set-up of a declared name, or of an adapter's address, as it is now. Raises ApiError (404)."""
        declared = self._setups.get(name)
        if declared is not None and declared.settings.adapter is None:
            return declared
        address = (declared and declared.settings.adapter) or name
        adapter = self.swap.shelf.find(address)
        if adapter is None:
            raise unknown_model(name, self.model_names())
        known = declared or replace(self._bare, settings=ServedName(name=name, adapter=name))
        return replace(known, lineage_id=self._page(name, adapter)["lineage_id"], adapter=adapter)

    def model_names(self) -> list[str]:
        """Return all that clients may put into ``model``: the declared names, adapters, aliases."""
        return [*self._setups, *self.swap.shelf.addresses()]

    def _page(self, name: str, adapter: Adapter | None) -> dict[str, Any]:
        """Return a name's lineage page with an adapter; each is made once, as both never change."""
        page = self.plan.lineage.get(name, self.plan.plain_lineage)
        if adapter is None:
            return page
        if (name, adapter.address) not in self._pages:
            self._pages[name, adapter.address] = with_adapter(page, name, adapter)
        return self._pages[name, adapter.address]

    def model_card(self, setup: NameSetup) -> dict[str, Any]:
        """Return OpenAI's description of a name, with what it is made of."""
        return {
            "id": setup.settings.name,
            "object": "model",
            "created": self.created,
            "owned_by": "raylign",
            "lineage_id": setup.lineage_id,
            "adapter": setup.adapter.address if setup.adapter else None,
            "retrieval": setup.settings.search is not None,
            "strategy": setup.settings.strategy,
            "max_model_len": self.plan.engine.max_model_len,
        }

    def model_cards(self) -> list[dict[str, Any]]:
        """Return the description of every served name."""
        return [self.model_card(self.setup(name)) for name in self.model_names()]

    def lineage_pages(self, name: str | None) -> list[dict[str, Any]]:
        """Return the lineage page of one name or of all. Raises ApiError (404)."""
        names = self.model_names() if name is None else [name]
        return [self._page(each, self.setup(each).adapter) for each in names]

    def complete(self, request: CompletionRequest, setup: NameSetup, request_id: str) -> CompletionRun:
        """Return the run of a text completion. Raises ApiError where the name answers chats only."""
        return CompletionRun(self._engine, request, setup, request_id, self._retry_after_s)

    def account(self, digest: str) -> Account | None:
        """Return a new account of the key with this digest; None where it has no budget."""
        name = self.plan.key_names.get(digest)
        if self._ledger is None or name is None or self.plan.key_budgets.of(name) == KeyLimits():
            return None
        return Account(self._ledger, name, self.metrics, self._retry_after_s)

    async def find_passages(
        self, query: str, k: int, mode: Mode, where: str | None = None, trace: Span | None = None
    ) -> list[dict[str, Any]]:
        """Return the ``k`` best passages of the index, best first; the stages go into ``trace``. Raises ApiError."""
        if self._search is None or not self.plan.index:
            raise ApiError(404, "This server has no index: give it one with index=….", code="no_index")
        try:
            if trace is None:
                return await self._search.search.remote(query, k, mode, where)
            found, stages = await self._search.traced_search.remote(query, k, mode, where)
            trace.parts += stages
            return found
        except Exception as error:
            raise from_exception(error, self._retry_after_s) from error

    async def score(self, messages: Sequence[Message], answers: Sequence[str]) -> Sequence[float]:
        """Return what the reward model makes of each answer. Raises ApiError."""
        assert self._scorer is not None, "only handed on where there is a reward model"
        try:
            return await self._scorer.score.remote(list(messages), list(answers))
        except Exception as error:
            raise from_exception(error, self._retry_after_s) from error

    async def vectors(self, texts: list[str]) -> list[list[float]]:
        """Return the embedder's vectors of texts. Raises ApiError."""
        assert self._search is not None, "only handed on where there is an embedder"
        try:
            return (await self._search.embed.remote(texts))["vectors"]
        except Exception as error:
            raise from_exception(error, self._retry_after_s) from error

    async def search(self, request: SearchRequest) -> dict[str, Any]:
        """Return the body of ``/v1/search``. Raises ApiError."""
        with self.metrics.retrieval.time():
            where = where_of(request.filters)
            found = await self.find_passages(request.query, request.k, request.mode, where)
        return {"object": "list", "index": self.plan.index, "data": found}

    async def embeddings(self, request: EmbeddingRequest) -> dict[str, Any]:
        """Return the embedder's vectors and the count of tokens. Raises ApiError."""
        if self._search is None or not self.plan.embedder:
            raise ApiError(404, "This server has no embedder: give it one with embedder=….", code="no_embedder")
        if request.model != self.plan.embedding_name:
            raise unknown_model(request.model, [self.plan.embedding_name])
        if request.dimensions is not None:
            raise ApiError(400, "This embedder's vectors have one length only.", param="dimensions")
        try:
            return await self._search.embed.remote(request.texts(), True)
        except Exception as error:
            raise from_exception(error, self._retry_after_s) from error

    async def feedback(self, request: FeedbackRequest) -> dict[str, Any]:
        """Append a row to the feedback table and return the body of ``/v1/feedback``. Raises ApiError."""
        served = self._recent.get(request.request_id) if request.request_id else None
        row = feedback_row(request, served)
        table = await asyncio.to_thread(append, self.plan.feedback_uri, row)
        self.metrics.feedback.labels(request.rating or "none").inc()
        kept = {key: row[key] for key in ("request_id", "model", "lineage_id", "rating")}
        return {"id": row["feedback_id"], "object": "feedback", "table": table, **kept}

    async def metrics_text(self) -> bytes:
        """Return Prometheus's text, the engine's load in it where the engine tells it soon."""
        try:
            load = await self._load(timeout_s=1)
        except Exception:
            logger.exception("the engine does not tell its load")
            load = None
        self.metrics.engine.clear()  # what it told a scrape ago is not its load now
        for state, count in (load or {}).items():
            self.metrics.engine.labels(state).set(count)
        return self.metrics.text()

    async def health(self) -> dict[str, Any]:
        """Return the body of ``/healthz``, status "busy" where requests wait before the engine.

        Raises:
            ApiError: the engine does not run (503).
        """
        try:
            load = await self._load(timeout_s=5)
            if load is None and not await asyncio.wait_for(runs(self._engine), 5):
                raise RuntimeError("no replica of the engine runs")
        except Exception as error:
            raise ApiError(503, "The engine does not answer.", code="engine_unavailable") from error
        return {"status": "ok" if load is not None else "busy", "models": self.model_names()}

    async def _load(self, timeout_s: float) -> dict[str, int] | None:
        """Return the engine's load; None where the answer waits: Serve queues this call like any other request."""
        from ray.serve.exceptions import BackPressureError

        try:
            return await asyncio.wait_for(_answer(self._engine.load.remote()), timeout_s)
        except (TimeoutError, BackPressureError):
            return None


async def _answer(response: Any) -> Any:
    return await response
