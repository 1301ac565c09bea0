"""One chat request on its way to its answer, as a whole response or as a stream."""

import json
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from components.reasoning.budget import KINDS, Budget
from components.reasoning.events import Around, Message, Passage, Piece, text_of
from components.retrieval.prompt import as_prompted, grounded_conversation
from components.serving.answers import Choice, Envelope
from components.serving.key_budgets import NOTHING, Account
from components.serving.requests import ChatRequest
from components.serving.structured import Kind, composed
from components.spans import Span

if TYPE_CHECKING:
    from components.serving.chat import ChatService, NameSetup


class ChatRun:
    """One chat request on its way to its answer."""

    def __init__(
        self,
        service: "ChatService",
        request: ChatRequest,
        setup: "NameSetup",
        request_id: str,
        trace: Span | None = None,
    ) -> None:
        self.request, self.setup, self.trace, self.began = request, setup, trace, time.perf_counter()
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

    def by_pieces(self) -> bool:
        """Return whether tokens have to be counted as they come: those of a sample that is given up, too."""
        limits = self.budget.limits
        several = self.setup.settings.strategy != "direct" or limits.tokens is not None
        return self.counted or several or limits.seconds is not None

    def comes_whole(self) -> bool:
        """Return whether the answer has parts that only a whole response of the engine has in one place.

        React calls the client's tools itself: the engine is told of none.
        """
        asked, acts = self.request.model_extra or {}, self.setup.settings.strategy == "react"
        return not self.request.stream and bool(asked.get("logprobs") or (self.request.tools and not acts))

    def left_out(self) -> frozenset[str]:
        """Return the client's fields that the strategy or the server sees to, and not the engine."""
        acts = {"tools", "tool_choice", "parallel_tool_calls"} if self.setup.settings.strategy == "react" else set()
        return frozenset(acts | ({"response_format"} if self.composed() else set()))

    def ground(self, choice: int, messages: Sequence[Message], passages: Sequence[Passage]) -> list[Message]:
        """Return the trained prompt over ``passages``, and keep it for feedback: choices may find different ones."""
        prompt = self.prompts[choice] = self._grounded(messages, passages)
        return prompt

    def fit(
        self, messages: Sequence[Message], passages: Sequence[Passage], around: Around | None = None
    ) -> Sequence[Passage]:
        """Return those of ``passages`` that have room in the prompt beside the answer. Raises ApiError: none has."""
        setup, search, room = self.setup.settings, self.setup.settings.search, self._service.room
        if search is None or room is None:
            return passages
        return room.fitting(
            passages,
            partial(self._grounded, messages),
            self.request.token_limit() or setup.max_tokens,
            search.prompt_tokens,
            direct=setup.strategy == "direct",
            around=around,
        )

    def _grounded(self, messages: Sequence[Message], passages: Sequence[Passage]) -> list[Message]:
        search = self.setup.settings.search
        assert search is not None, "only names with an index ground their prompts"
        return grounded_conversation(with_plain_contents(messages), passages, search.passage_words, search.guard)

    def show(self, passage: Passage) -> str:
        """Return a passage as the trained prompt would show it, what speaks to the model in it guarded against."""
        search = self.setup.settings.search
        assert search is not None, "only names with an index have passages to show"
        return as_prompted(passage, search.passage_words, search.guard)

    async def response(self) -> dict[str, Any]:
        """Return the whole answer. Raises ApiError."""
        with self._service.watched(self):
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
        with self._service.watched(self):
            async with aclosing(self._lines()) as lines:
                async for line in lines:
                    yield line

    async def _lines(self) -> AsyncGenerator[str, None]:
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
            if self.trace is not None:
                self.trace.end(error=error)
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
