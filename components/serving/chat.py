"""Answers chat requests: strategy over engine and index, as one response or as a stream."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from components.data.grounding import ABSTENTION, abstains
from components.reasoning.events import Found, Passage, Piece, Score, Similar, Strategy, Tools, last_question, text_of
from components.reasoning.metered import metered
from components.serving.abstaining import abstaining
from components.serving.adapters import Adapter
from components.serving.chat_run import ChatRun
from components.serving.errors import ApiError, from_exception
from components.serving.feedback import RecentRequests, Served
from components.serving.generation import Speaker, generator, merged
from components.serving.metrics import Metrics
from components.serving.requests import ChatRequest
from components.serving.room import PromptRoom
from components.serving.settings import Mode, ServedName
from components.serving.structured import as_json
from components.serving.tracing import Tracing, opened, traced
from components.spans import Span, as_documents, step

Search = Callable[[str, int, Mode, str | None, Span | None], Awaitable[list[Passage]]]


@dataclass(frozen=True)
class NameSetup:
    """A served name, ready to answer: its strategy looked up, its lineage known."""

    settings: ServedName
    strategy: Strategy
    lineage_id: str
    adapter: Adapter | None = None  # what its alias meant when the request came: it finishes on this


class ChatService:
    """What chat requests share: engine, index, counters, and the memory that feedback refers to."""

    def __init__(
        self,
        engine: Any,
        search: Search | None,
        metrics: Metrics,
        recent: RecentRequests,
        retry_after_s: int,
        score: Score | None = None,
        similar: Similar | None = None,
        tracing: Tracing | None = None,
        room: PromptRoom | None = None,
    ) -> None:
        self._tracing, self._tracer = tracing, tracing.open() if tracing else None
        self._engine, self._search, self._metrics = engine, search, metrics
        self._recent, self._retry_after_s = recent, retry_after_s
        self._score, self._similar = score, similar
        self.room = room  # none: passages go into prompts without being counted

    def close(self) -> None:
        """Have the last traces written."""
        if self._tracer is not None:
            self._tracer.close()

    def start(self, request: ChatRequest, setup: NameSetup, request_id: str) -> ChatRun:
        """Return the run of one request; nothing happens until it is asked for its response or its stream.

        Raises:
            ApiError: there is an index to ask, but no question in the messages; or a tool is to be forced on react.
        """
        if setup.settings.search and not last_question(request.messages):
            raise ApiError(400, "This model searches for the last user message, and there is none.", param="messages")
        choice = (request.model_extra or {}).get("tool_choice")
        if setup.settings.strategy == "react" and choice not in (None, "auto", "none"):
            message = "This model decides itself whether it calls a tool: tool_choice may be 'auto' or 'none'."
            raise ApiError(400, message, param="tool_choice")
        trace = None
        if self._tracing is not None and self._tracing.takes(request_id):
            trace = opened(setup.settings.name, request.messages)
        return ChatRun(self, request, setup, request_id, trace)

    def events(self, run: ChatRun) -> AsyncGenerator[tuple[int, Piece | Found], None]:
        """Return the strategy's events for each of the request's choices; the index is asked once for all."""
        request, setup = run.request, run.setup
        as_json_of = run.composed()
        retrieve = self._retrieve_once(setup, run.trace) if setup.settings.search else None
        speaker = Speaker(
            self._engine,
            request,
            run.envelope.id,
            setup.settings.temperature,
            setup.adapter,
            self._retry_after_s,
            timed=run.by_pieces(),
            whole=run.comes_whole(),
            left_out=run.left_out(),
        )
        limit, left = request.token_limit() or setup.settings.max_tokens, run.budget.unwritten()
        if left is not None and request.n > 1:  # else the first choice would be promised all of it
            limit = max(1, min(limit, left // request.n))
        runs = []
        for index in range(request.n):
            tools = Tools(
                metered(traced(generator(speaker, index), run.trace), run.budget),
                retrieve,
                partial(run.ground, index),
                limit,
                run.budget,
                self._score,
                self._similar,
                request.functions(),
                formatted=run.formatted() and as_json_of is None,
                show=run.show,
                fit=run.fit,
                choices=request.n,
                unknown=ABSTENTION,
            )
            strategy = setup.strategy
            if setup.settings.search is not None and setup.settings.search.abstain:
                strategy = partial(abstaining, strategy)
            events = strategy(request.messages, tools)
            shown = request.include_reasoning
            runs.append(as_json(events, as_json_of, reasoning=shown) if as_json_of else events)
        return merged(runs)

    def finish(self, run: ChatRun) -> None:
        """Count a finished answer and remember it for feedback."""
        name, choices = run.setup.settings.name, run.choices
        given_up = max(0, run.budget.tokens - sum(choice.completion_tokens for choice in choices))
        choices[0].completion_tokens += given_up  # by samples that were cancelled: nobody saw them, but they were made
        choices[0].reasoning_tokens += given_up
        if run.budget.stopped_by:
            self._metrics.budgets.labels(name, run.budget.stopped_by).inc()
        for choice in choices:
            self._metrics.tokens.labels(name, "reasoning").inc(choice.reasoning_tokens)
            self._metrics.tokens.labels(name, "completion").inc(choice.completion_tokens - choice.reasoning_tokens)
            self._metrics.abstentions.labels(name).inc(abstains(choice.content))
            choice.mend()
            searched = choice.passages is not None
            with step(run.trace if searched else None, "verify", "EVALUATOR", {"answer": choice.content}) as check:
                proof = choice.proof()
                check.end(proof)
            for citation in proof.get("citations", ()):
                self._metrics.citations.labels(name, "verified" if citation["verified"] else "weak").inc()
            self._metrics.citations.labels(name, "unknown").inc(len(proof.get("unknown_citations", ())))
        self._metrics.tokens.labels(name, "prompt").inc(choices[0].prompt_tokens)
        if run.trace is not None:
            run.trace.end({"answer": choices[0].content, "answers": [choice.content for choice in choices]})
        messages = [_plain(message) for message in run.request.messages]
        sampling = run.request.model_dump(include={"temperature", "top_p", "seed", "max_tokens", "n"})
        self._recent.add(
            Served(
                request_id=run.envelope.id,
                model=name,
                lineage_id=run.setup.lineage_id,
                prompts=[[_plain(message) for message in prompt] or messages for prompt in run.prompts],
                messages=messages,
                answers=[choice.content for choice in choices],
                passage_ids=[[passage["passage_id"] for passage in choice.passages or ()] for choice in choices],
                sampling={"temperature": run.setup.settings.temperature, **_given(sampling)},
            )
        )

    @contextmanager
    def watched(self, run: ChatRun) -> Iterator[None]:
        """Hand on the trace of a request when it is over, however it ends."""
        try:
            yield
        except BaseException as error:
            self._leave(run, error)
            raise
        self._leave(run)

    def _leave(self, run: ChatRun, error: BaseException | None = None) -> None:
        if run.trace is not None and self._tracer is not None:
            run.trace.end(error=error)
            self._tracer.add(run.trace, {"request_id": run.envelope.id, "lineage_id": run.setup.lineage_id})

    def first_token(self, run: ChatRun) -> None:
        """Count the time until a stream's first token."""
        self._metrics.first_token.labels(run.setup.settings.name).observe(time.perf_counter() - run.began)

    def failure(self, error: BaseException) -> ApiError:
        """Return what a client may know of a failure."""
        return from_exception(error, self._retry_after_s)

    def _retrieve_once(self, setup: NameSetup, trace: Span | None) -> Callable[[str], Awaitable[Sequence[Passage]]]:
        search, settings = self._search, setup.settings.search
        assert search is not None and settings is not None, "the plan gives every searching name an index"
        asked: dict[str, asyncio.Task[list[Passage]]] = {}

        async def timed(question: str) -> list[Passage]:
            with self._metrics.retrieval.time(), step(trace, "retrieve", "RETRIEVER", {"query": question}) as told:
                found = await search(question, settings.passages, settings.mode, settings.where, trace and told)
                told.end(as_documents(found))
                return found

        async def retrieve(question: str) -> Sequence[Passage]:
            if question not in asked:
                asked[question] = asyncio.create_task(timed(question))
            # All choices wait for one search: what ends one of them must not end it for the others.
            return await asyncio.shield(asked[question])

        return retrieve


def _plain(message: Mapping[str, Any]) -> dict[str, str]:
    return {"role": message["role"], "content": text_of(dict(message))}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
