"""Bodies that the endpoint accepts; what only concerns the engine passes through to it unread."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from components.reasoning.budget import Limits
from components.serving.filters import Filter, check_size
from components.serving.settings import Mode

_OURS = {"model", "messages", "stream", "stream_options", "n", "max_tokens", "max_completion_tokens", "seed"}
_OURS |= {"include_reasoning", "budget"}
_OF_THE_ANSWER = {"response_format", "structured_outputs", "tools", "tool_choice", "parallel_tool_calls"}
_OF_THE_ANSWER |= {"logprobs", "top_logprobs", "stop"}


class StreamOptions(BaseModel):
    """OpenAI's ``stream_options``."""

    include_usage: bool = False


class Sampling(BaseModel):
    """What chat and text completions have in common; unknown fields go to the engine as they are."""

    model_config = ConfigDict(extra="allow")
    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1, le=16)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_tokens: int | None = Field(None, ge=1)
    stop: str | list[str] | None = None
    seed: int | None = None

    @model_validator(mode="after")
    def _options_need_a_stream(self) -> "Sampling":
        if self.stream_options is not None and not self.stream:
            raise ValueError("'stream_options' is only allowed when 'stream' is true")
        return self

    def include_usage(self) -> bool:
        """Return whether a stream ends with a chunk of token counts."""
        return self.stream_options is not None and self.stream_options.include_usage


class ChatRequest(Sampling):
    """Body of ``/v1/chat/completions``."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    include_reasoning: bool = True
    budget: Limits | None = None
    tools: list[dict[str, Any]] | None = None
    response_format: dict[str, Any] | None = None

    @field_validator("messages")
    @classmethod
    def _messages_have_roles(cls, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        roles = ("system", "developer", "user", "assistant", "tool")
        for index, message in enumerate(messages):
            if message.get("role") not in roles:
                raise ValueError(f"message {index} has the role {message.get('role')!r}, expected one of {roles}")
            if message.get("content") is None and message["role"] != "assistant":
                raise ValueError(f"message {index} has no content")
            if not isinstance(message.get("content"), (str, list, type(None))):
                raise ValueError(f"the content of message {index} is neither a string nor a list of parts")
            for part in message["content"] if isinstance(message.get("content"), list) else ():
                if not isinstance(part, dict):
                    raise ValueError(f"a part of message {index} is no object, as {{'type': 'text', 'text': '…'}}")
                if part.get("type") == "text" and not isinstance(part.get("text"), str):
                    raise ValueError(f"a text part of message {index} has no 'text' that is a string")
        return messages

    @field_validator("tools")
    @classmethod
    def _tools_are_functions(cls, tools: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
        for index, tool in enumerate(tools or ()):
            function = tool.get("function")
            if not isinstance(function, dict) or not isinstance(function.get("name"), str):
                raise ValueError(f"tool {index} has no function with a name")
            if not isinstance(function.get("parameters"), (dict, type(None))):
                raise ValueError(f"the parameters of tool {index} are no JSON schema")
        return tools

    def functions(self) -> tuple[dict[str, Any], ...]:
        """Return the tools that may be called for this answer."""
        return () if (self.model_extra or {}).get("tool_choice") == "none" else tuple(self.tools or ())

    def token_limit(self) -> int | None:
        """Return the client's limit under its new or its old name."""
        return self.max_completion_tokens or self.max_tokens

    def engine_fields(self, *, final: bool = True, left_out: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Return what the engine is told besides messages, limits and streaming.

        Args:
            final: whether it writes the answer; of what it writes before, the client asks nothing.
            left_out: fields that the server sees to itself.
        """
        ours = _OURS | left_out if final else _OURS | left_out | _OF_THE_ANSWER
        return {key: value for key, value in self.model_dump(exclude_none=True).items() if key not in ours}


class CompletionRequest(Sampling):
    """Body of ``/v1/completions``."""

    prompt: str | list[str] | list[int] | list[list[int]]


class EmbeddingRequest(BaseModel):
    """Body of ``/v1/embeddings``."""

    model: str
    input: str | list[str] = Field(min_length=1)
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None

    def texts(self) -> list[str]:
        """Return the inputs as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


class SearchRequest(BaseModel):
    """Body of ``/v1/search``."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(min_length=1)
    k: int = Field(5, ge=1, le=100)
    mode: Mode = "hybrid"
    filters: Filter | None = None

    @field_validator("filters")
    @classmethod
    def _filters_are_small(cls, filters: Any) -> Any:
        if filters is not None:
            check_size(filters)
        return filters


class AdapterRequest(BaseModel):
    """Body of ``/v1/adapters``: where an adapter is, and what it shall be called where that does not say."""

    model_config = ConfigDict(extra="forbid")
    source: str = Field(min_length=1)
    name: str | None = Field(None, min_length=1)
    version: str | None = Field(None, min_length=1)


class AliasRequest(BaseModel):
    """Body of ``/v1/adapters/aliases``: ``name@alias``, and the loaded version that it shall mean."""

    model_config = ConfigDict(extra="forbid")
    alias: str = Field(min_length=1)
    version: str = Field(min_length=1)


class Turn(BaseModel):
    """A message as feedback keeps it; what else a client's message has, as a name, is left out."""

    role: str = Field(min_length=1)
    content: str


class FeedbackRequest(BaseModel):
    """Body of ``/v1/feedback``: what a person thought of an answer, or which answer they wanted instead."""

    model_config = ConfigDict(extra="forbid")
    request_id: str | None = None
    model: str | None = None
    messages: list[Turn] | None = None
    answer: str | None = None
    choice: int = Field(0, ge=0)
    rating: Literal["up", "down"] | None = None
    preferred: str | None = Field(None, min_length=1)
    comment: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "FeedbackRequest":
        if self.rating is None and self.preferred is None and self.comment is None:
            raise ValueError("give at least one of 'rating', 'preferred' and 'comment'")
        if self.request_id is None and (self.messages is None or self.answer is None):
            raise ValueError("say what it is about: 'request_id', or 'messages' and 'answer'")
        return self
