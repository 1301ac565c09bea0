"""What strategies are handed and what they yield; plain values, so that they run against fakes."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Message = dict[str, Any]
Passage = dict[str, Any]


@dataclass(frozen=True)
class Piece:
    """A stretch of what the model wrote; token counts come with the piece that ends a generation."""

    text: str = ""
    channel: Literal["content", "reasoning"] = "content"
    finish_reason: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    extra: dict[str, Any] = field(default_factory=dict)  # tool calls, log-probabilities: passed on as they are


@dataclass(frozen=True)
class Found:
    """The passages that the answer is going to be grounded in, numbered from 1 in the prompt."""

    passages: tuple[Passage, ...]


class Generate(Protocol):
    """Continue a conversation; a stream of pieces or, where the client does not stream, one piece."""

    def __call__(
        self, messages: Sequence[Message], *, max_tokens: int | None = None
    ) -> AsyncGenerator[Piece, None]: ...


@dataclass(frozen=True)
class Tools:
    """What a strategy may call."""

    generate: Generate
    retrieve: Callable[[str], Awaitable[Sequence[Passage]]] | None  # None: this name has no index
    ground: Callable[[Sequence[Message], Sequence[Passage]], list[Message]]  # the trained prompt over passages
    max_tokens: int | None = None  # all that the client allows for reasoning and answer together


Strategy = Callable[..., AsyncGenerator[Piece | Found, None]]


def last_question(messages: Sequence[Message]) -> str:
    """Return the text of the last user turn: what an index is asked; empty if there is none."""
    for message in reversed(messages):
        if message.get("role") == "user":
            return text_of(message)
    return ""


def text_of(message: Message) -> str:
    """Return a message's text, also where its content is a list of typed parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text", "") for part in content if part.get("type") == "text")
