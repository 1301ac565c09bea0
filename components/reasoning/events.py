"""What strategies are handed and what they yield; plain values, so that they run against fakes."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from components.reasoning.budget import Budget

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
    """Continue a conversation; a stream of pieces or, where the client does not stream, one piece.

    What a client asks of its answer (a format, its own tools, stop words, log-probabilities) holds for calls that are
    ``final`` only: a thought in a JSON schema would be no thought. ``temperature`` none leaves the client's.
    """

    def __call__(
        self,
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] = (),
        final: bool = False,
    ) -> AsyncGenerator[Piece, None]: ...


Around = Callable[[list[Message]], Sequence[Message]]  # from a prompt to the longest request made of it


class Fit(Protocol):
    """Return those of the passages that have room in a prompt, and in what a strategy puts around it."""

    def __call__(
        self, messages: Sequence[Message], passages: Sequence[Passage], around: Around | None = None
    ) -> Sequence[Passage]: ...


Retrieve = Callable[[str], Awaitable[Sequence[Passage]]]
Score = Callable[[Sequence[Message], Sequence[str]], Awaitable[Sequence[float]]]
Similar = Callable[[str, Sequence[str]], Awaitable[Sequence[float]]]


def plainly(passage: Passage) -> str:
    """Return a passage on one line, after its title."""
    return f"{passage.get('title', '')}: {' '.join(passage['text'].split())}"


@dataclass(frozen=True)
class Tools:
    """What a strategy may call."""

    generate: Generate
    retrieve: Retrieve | None  # None: this name has no index
    ground: Callable[[Sequence[Message], Sequence[Passage]], list[Message]]  # the trained prompt over passages
    max_tokens: int | None = None  # the longest chain: reasoning and answer of one sample together
    budget: Budget = field(default_factory=Budget)  # what all of the request may spend
    score: Score | None = None  # how good each answer to a conversation is, more is better; None: no reward model
    similar: Similar | None = None  # how close a question is to each text, more is closer; None: no embedder
    functions: tuple[dict[str, Any], ...] = ()  # the client's own tools, by OpenAI's schema
    formatted: bool = False  # the client wants its answer in a format that only a final call of the model has
    show: Callable[[Passage], str] = plainly  # a passage as prompts may show it, guarded where the name says so
    fit: Fit = lambda messages, passages, around=None: passages  # what has room
    choices: int = 1  # answers to the request that are made at the same time, from one budget
    unknown: str = "I don't know."  # what is answered where nothing holds the answer


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
