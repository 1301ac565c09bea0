"""The trace of a chat request: which steps made its answer, kept as an MLflow trace for a share of requests."""

import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from components.reasoning.events import Generate, Message, Piece, last_question
from components.spans import Span, step
from components.tracking.traces import Tracer


@dataclass(frozen=True)
class Tracing:
    """How many requests leave a trace, and where; plain data of the plan."""

    share: float
    uri: str
    experiment: str
    storage: str

    def open(self) -> Tracer:
        """Return what writes them, with a thread of its own."""
        return Tracer(self.uri, self.experiment, self.storage)

    def takes(self, request_id: str) -> bool:
        """Return whether a request is in the share, which its id decides."""
        drawn = int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:4]) / 2**32
        return drawn < self.share


def opened(name: str, messages: Sequence[Message]) -> Span:
    """Return the trace of a request that has just come."""
    return Span(name, "CHAIN", {"question": last_question(messages) or "", "messages": list(messages)})


def traced(generate: Generate, whole: Span | None) -> Generate:
    """Return a ``generate`` whose calls are steps of ``whole``; the same one where there is no trace."""
    if whole is None:
        return generate

    async def noted(messages: Sequence[Message], **asked: Any) -> AsyncGenerator[Piece, None]:
        written: list[str] = []
        given = {key: value for key, value in asked.items() if value not in (None, (), False)}
        with step(whole, "generate", "LLM", {"messages": list(messages), **given}) as call:
            async with aclosing(generate(messages, **asked)) as pieces:
                async for piece in pieces:
                    written.append(piece.text)
                    yield piece
            call.end("".join(written))

    return noted
