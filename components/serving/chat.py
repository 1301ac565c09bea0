"""Answers chat requests: strategy over engine and index, as one response or as a stream."""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from components.data.grounding import ABSTENTION, abstains
from components.reasoning.budget import KINDS, Budget
from components.reasoning.events import (
    Found,
    Message,
    Passage,
    Piece,
    Score,
    Similar,
    Strategy,
    Tools,
    last_question,
    text_of,
)
from components.reasoning.metered import metered
from components.retrieval.prompt import as_prompted, grounded_conversation
from components.serving.abstaining import abstaining
from components.serving.adapters import Adapter
from components.serving.answers import Choice, Envelope
from components.serving.errors import ApiError, from_exception
from components.serving.feedback import RecentRequests, Served
from components.serving.generation import Speaker, generator, merged
from components.serving.key_budgets import NOTHING, Account
from components.serving.metrics import Metrics
from components.serving.requests import ChatRequest
from components.serving.settings import Mode, ServedName
from components.serving.structured import Kind, as_json, composed

Search = Callable[[str, int, Mode, str | None], Awaitable[list[Passage]]]


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
    ) -> None:
        self._engine, self._search, self._metrics = engine, search, metrics
        self._recent, self._retry_after_s = recent, retry_after_s
        self._score, self._similar = score, similar

    def start(self, request: ChatRequest, setup: NameSetup, request_id: str) -> "ChatRun":
        """Return the run of one request; nothing happens until it is asked for its response or its stream.

        Raises:
            ApiError: there is an index to ask, but no question in the messages.
        """
        if setup.settings.search and not last_question(request.messages):
            raise ApiError(400, "This model searches for the last user message, and there is none.", param="messages")
        return ChatRun(self, request, setup, request_id)

    def events(self, run: "ChatRun") -> AsyncGenerator[tuple[int, Piece | Found], None]:
        """Return the strategy's events for each of the request's choices; the index is asked once for all."""
        request, setup = run.request, run.setup
        as_json_of = run.composed()
        retrieve = self._retrieve_once(setup) if setup.settings.search else None
        speaker = Speaker(
            self._engine,
            request,
            run.envelope.id,
            setup.settings.temperature,
            setup.adapter,
            self._retry_after_s,
            timed=(run.counted or run.budget.limits.seconds is not None) and not run.comes_whole(),
            left_out=run.left_out(),
        )
        limit, left = request.token_limit() or setup.settings.max_tokens, run.budget.unwritten()
        if left is not None and request.n > 1:  # else the first choice would be promised all of it
            limit = max(1, min(limit, left // request.n))
        runs = []
        for index in range(request.n):
            tools = Tools(
                metered(generator(speaker, index), run.budget),
                retrieve,
                partial(run.ground, index),
                limit,
                run.budget,
                self._score,
                self._similar,
                tuple(request.tools or ()),
                formatted=run.formatted() and as_json_of is None,
                show=run.show,
                unknown=ABSTENTION,
            )
            strategy = setup.strategy
            if setup.settings.search is not None and setup.settings.search.abstain:
                strategy = partial(abstaining, strategy)
            events = strategy(request.messages, tools)
            shown = request.include_reasoning
            runs.append(as_json(events, as_json_of, reasoning=shown) if as_json_of else events)
        return merged(runs)

    def finish(self, run: "ChatRun") -> None:
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
            proof = choice.proof()
            for citation in proof.get("citations", ()):
                self._metrics.citations.labels(name, "verified" if citation["verified"] else "weak").inc()
            self._metrics.citations.labels(name, "unknown").inc(len(proof.get("unknown_citations", ())))
        self._metrics.tokens.labels(name, "prompt").inc(choices[0].prompt_tokens)
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

    def first_token(self, run: "ChatRun") -> None:
        """Count the time until a stream's first token."""
        self._metrics.first_token.labels(run.setup.settings.name).observe(time.perf_counter() - run.began)

    def failure(self, error: BaseException) -> ApiError:
        """Return what a client may know of a failure."""
        return from_exception(error, self._retry_after_s)

    def _retrieve_once(self, setup: NameSetup) -> Callable[[str], Awaitable[Sequence[Passage]]]:
        search, settings = self._search, setup.settings.search
        assert search is not None and settings is not None, "the plan gives every searching name an index"
        asked: dict[str, asyncio.Task[list[Passage]]] = {}

        async def timed(question: str) -> list[Passage]:
            with self._metrics.retrieval.time():
                return await search(question, settings.passages, settings.mode, settings.where)

        async def retrieve(question: str) -> Sequence[Passage]:
            if question not in asked:
                asked[question] = asyncio.create_task(timed(question))
            # All choices wait for one search: what ends one of them must not end it for the others.
            return await asyncio.shield(asked[question])

        return retrieve


class ChatRun:
    """One chat request on its way to its answer."""

    def __init__(self, service: ChatService, request: ChatRequest, setup: NameSetup, request_id: str) -> None:
        self.request, self.setup, self.began = request, setup, time.perf_counter()
        self.envelope = Envelope(request_id, setup.settings.name, setup.lineage_id, request.include_reasoning)
        self.budget = Budget(setup.settings.budget.within(request.budget))
        repairs = setup.settings.search is not None and setup.settings.search.citations == "repair"
        self.choices = [Choice(repairs=repairs) for _ in range(request.n)]
        self.prompts: list[list[Message]] = [[] for _ in range(request.n)]  # grounded, of each choice
        self.counted = False  # a key pays for its tokens, also for those of an answer that nobody waits for
        self._service = service

    async def admit(self, account: Account) -> None:
        """Let the key's account cap this run's budget. Raises ApiError."""
        limits = self.budget.limits
        wanted: dict[str, float | None] = {kind: getattr(limits, kind) for kind in KINDS}
        if self.setup.settings.strategy == "direct":  # one generation for each choice, and nothing besides
            most = self.request.n * (self.request.token_limit() or self.setup.settings.max_tokens)
            wanted |= NOTHING | {"tokens": min(most, limits.tokens or most)}
        self.budget, self.counted = await account.open(limits, wanted), True

    def composed(self) -> Kind | None:
        """Return the type of "answer" where the answer is to be {"reasoning", "answer"} and the server makes that."""
        if self.setup.settings.strategy == "direct":  # the engine writes both itself
            return None
        return composed(self.request.response_format)

    def formatted(self) -> bool:
        """Return whether the client wants a format that a final call of the engine has to keep to."""
        asked = self.request.response_format or {}
        return asked.get("type", "text") != "text" or bool((self.request.model_extra or {}).get("structured_outputs"))

    def comes_whole(self) -> bool:
        """Return whether the answer has parts that only a whole response of the engine has in one place."""
        asked = self.request.model_extra or {}
        return not self.request.stream and bool(asked.get("logprobs") or self.request.tools)

    def left_out(self) -> frozenset[str]:
        """Return the client's fields that the strategy or the server sees to, and not the engine."""
        acts = {"tools", "tool_choice", "parallel_tool_calls"} if self.setup.settings.strategy == "react" else set()
        return frozenset(acts | ({"response_format"} if self.composed() else set()))

    def ground(self, choice: int, messages: Sequence[Message], passages: Sequence[Passage]) -> list[Message]:
        """Return the trained prompt over ``passages``, and keep it for feedback: choices may find different ones."""
        search = self.setup.settings.search
        assert search is not None, "only names with an index ground their prompts"
        prompt = grounded_conversation(with_plain_contents(messages), passages, search.passage_words, search.guard)
        self.prompts[choice] = prompt
        return prompt

    def show(self, passage: Passage) -> str:
        """Return a passage as the trained prompt would show it, what speaks to the model in it guarded against."""
        search = self.setup.settings.search
        assert search is not None, "only names with an index have passages to show"
        return as_prompted(passage, search.passage_words, search.guard)

    async def response(self) -> dict[str, Any]:
        """Return the whole answer. Raises ApiError."""
        try:
            async with aclosing(self._service.events(self)) as events:
                async for index, event in events:
                    self.choices[index].add(event)
        except Exception as error:
            raise self._service.failure(error) from error
        self._service.finish(self)
        return self.envelope.response(self.choices, self.budget)

    async def stream(self) -> AsyncGenerator[str, None]:
        """Yield server-sent lines; a failure after the first token becomes the last line.

        Raises:
            ApiError: it failed before there was anything to send, so that the status can still say so.
        """
        sent = False
        opened: set[int] = set()
        try:
            async with aclosing(self._service.events(self)) as events:
                async for index, event in events:
                    self.choices[index].add(event)
                    if not isinstance(event, Piece):
                        continue
                    if index not in opened:
                        opened.add(index)
                        yield _line(self.envelope.first_chunk(index))
                    chunk = self.envelope.chunk(index, event)
                    if chunk is not None:
                        if not sent:
                            self._service.first_token(self)
                        sent = True
                        yield _line(chunk)
        except Exception as error:
            failure = self._service.failure(error)
            if not opened:
                raise failure from error
            yield _line(failure.body())
            return
        self._service.finish(self)
        for index, choice in enumerate(self.choices):
            yield _line(self.envelope.last_chunk(index, choice, self.budget))
        if self.request.include_usage():
            yield _line(self.envelope.usage_chunk(self.choices))
        yield "data: [DONE]\n\n"


def with_plain_contents(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with lists of text parts joined to strings, which prompts are built from."""
    return [{**message, "content": text_of(message)} for message in messages]


def _line(chunk: dict[str, Any]) -> str:
    return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"


def _plain(message: Mapping[str, Any]) -> dict[str, str]:
    return {"role": message["role"], "content": text_of(dict(message))}


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
