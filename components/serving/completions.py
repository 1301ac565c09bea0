"""Answers text completions: the bare engine under the client's name, its tokens counted and limited."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from components.reasoning.budget import Budget
from components.serving.chat import NameSetup
from components.serving.errors import ApiError
from components.serving.generation import chunks_of, engine_parts
from components.serving.key_budgets import NOTHING, Account
from components.serving.requests import CompletionRequest


class CompletionRun:
    """One text completion on its way; a budget limits its tokens, and what it may take of its key's time does not."""

    def __init__(
        self, engine: Any, request: CompletionRequest, setup: NameSetup, request_id: str, retry_after_s: int
    ) -> None:
        """Begin nothing yet. Raises ApiError where the name answers chats only."""
        settings = setup.settings
        if settings.search is not None or settings.strategy != "direct":
            message = f"'{request.model}' answers chats only: use /v1/chat/completions, or a name without index."
            raise ApiError(400, message, code="unsupported_endpoint", param="model")
        self.budget = Budget(settings.budget)
        self._engine, self._request, self._setup = engine, request, setup
        self._id, self._retry_after_s = request_id, retry_after_s
        self._max_tokens = request.max_tokens or settings.max_tokens
        several = isinstance(request.prompt, list) and request.prompt and not isinstance(request.prompt[0], int)
        self._texts = request.n * (len(request.prompt) if several else 1)

    async def admit(self, account: Account) -> None:
        """Let the key's account cap this run's budget. Raises ApiError."""
        limits = self.budget.limits
        most = min(self._texts * self._max_tokens, limits.tokens or self._texts * self._max_tokens)
        wanted = {**NOTHING, "tokens": most, "seconds": limits.seconds}
        self.budget = await account.open(limits, wanted, least_tokens=self._texts)

    async def response(self) -> dict[str, Any]:
        """Return the whole completion. Raises ApiError."""
        async for part in self._parts():
            return {**part["response"], "id": self._id, "model": self._request.model}
        raise ApiError(500, "The engine gave no answer.", code="internal_error")

    async def stream(self) -> AsyncGenerator[str, None]:
        """Yield server-sent lines. Raises ApiError."""
        async with aclosing(self._parts()) as parts:
            async for part in parts:
                for chunk in part["chunks"]:
                    whole = {**chunk, "id": self._id, "model": self._request.model}
                    yield f"data: {json.dumps(whole, separators=(',', ':'))}\n\n"
        yield "data: [DONE]\n\n"

    async def _parts(self) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the engine's response or chunks, and count what it writes; of a stream left early, its chunks."""
        settings, request = self._setup.settings, self._request
        left = self.budget.unwritten()
        most = self._max_tokens if left is None else max(1, min(self._max_tokens, left // self._texts))
        given = request.model_dump(exclude_none=True)
        body = {"temperature": settings.temperature, **given, "max_tokens": most, "request_id": self._id}
        if request.stream:
            body["stream_options"] = {"include_usage": True}
        seen = written = 0
        try:
            call = engine_parts(self._engine, body, "completion", self._setup.adapter, self._retry_after_s)
            async with aclosing(call) as parts:
                async for part in parts:
                    chunks = [part["response"]] if "response" in part else chunks_of(part["lines"])
                    for chunk in chunks:
                        written = (chunk.get("usage") or {}).get("completion_tokens") or written
                        seen += any(choice.get("text") for choice in chunk["choices"])
                    yield {**part, "chunks": [chunk for chunk in map(self._asked, chunks) if chunk]}
        finally:
            self.budget.settle(None, written or seen)

    def _asked(self, chunk: dict[str, Any]) -> dict[str, Any] | None:
        """Return a chunk without the counts that the client did not ask for; None where nothing is left of it."""
        if self._request.include_usage():
            return chunk
        return {key: value for key, value in chunk.items() if key != "usage"} if chunk["choices"] else None
