"""Gathers the pieces of an answer and shapes them like OpenAI's responses and chunks."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.reasoning.budget import Budget
from components.reasoning.events import Found, Passage, Piece
from components.retrieval.citations import Repair, cite, repaired
from components.retrieval.conflicts import conflicts


@dataclass
class Choice:
    """One of a request's ``n`` answers while it grows."""

    content: str = ""
    reasoning: str = ""
    finish_reason: str | None = None
    passages: tuple[Passage, ...] | None = None  # None: the name has no index
    prompt_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    repairs: bool = False  # put wrong citations right when the answer is complete
    made: list[Repair] = field(default_factory=list)

    def add(self, event: Piece | Found) -> None:
        """Take in the next event of the strategy."""
        if isinstance(event, Found):
            self.passages = event.passages
            return
        self.prompt_tokens += event.prompt_tokens
        self.completion_tokens += event.completion_tokens
        if event.channel == "reasoning":
            self.reasoning += event.text
            self.reasoning_tokens += event.completion_tokens
        else:
            self.content += event.text
            self.finish_reason = event.finish_reason or self.finish_reason
            self.extra.update(event.extra)

    def mend(self) -> None:
        """Put the citations of a complete answer right, if that is asked for; a second time changes nothing."""
        if self.repairs and self.passages is not None:
            self.content, made = repaired(self.content, self.passages)
            self.made += made

    def ended_by(self, budget: Budget) -> str:
        """Return OpenAI's finish reason; an answer that the budget cut short is not one that ended by itself."""
        if budget.stopped_by and self.finish_reason != "tool_calls":
            return "length"
        return self.finish_reason or "stop"

    def proof(self) -> dict[str, Any]:
        """Return what proves the answer or speaks against it: citations, marks of no passage, contradictions."""
        if self.passages is None:
            return {}
        citations, unknown = cite(self.content, self.passages)
        fields: dict[str, Any] = {"citations": [citation.row() for citation in citations]}
        if self.made:  # whoever read the stream has the answer as it was: this is how it should be
            fields |= {"repairs": [repair.row() for repair in self.made], "repaired_content": self.content}
        against = [conflict.row() for conflict in conflicts(citations, self.passages)]
        return (
            fields | ({"unknown_citations": unknown} if unknown else {}) | ({"conflicts": against} if against else {})
        )


@dataclass(frozen=True)
class Envelope:
    """What all chunks of one response share."""

    id: str
    model: str
    lineage_id: str
    include_reasoning: bool = True
    created: int = field(default_factory=lambda: int(time.time()))

    def _wrap(self, kind: str, choices: list[dict[str, Any]], usage: dict[str, Any] | None) -> dict[str, Any]:
        shared = {"id": self.id, "object": kind, "created": self.created, "model": self.model}
        wrapped = {**shared, "choices": choices, "system_fingerprint": f"fp_{self.lineage_id[:16]}"}
        return wrapped if usage is None else {**wrapped, "usage": usage}

    def response(self, choices: Sequence[Choice], budget: Budget) -> dict[str, Any]:
        """Return the whole answer as a ``chat.completion``."""
        shaped = []
        for index, choice in enumerate(choices):
            extra = dict(choice.extra)
            logprobs = extra.pop("logprobs", None)
            if "tool_calls" in extra:  # only chunks of a stream number them
                calls = extra["tool_calls"]
                extra["tool_calls"] = [{key: call[key] for key in call if key != "index"} for call in calls]
            message = {"role": "assistant", "content": choice.content, "refusal": None, **extra, **choice.proof()}
            if choice.reasoning and self.include_reasoning:
                message |= {"reasoning": choice.reasoning, "reasoning_content": choice.reasoning}
            reason = choice.ended_by(budget)
            shaped.append({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
        return self._wrap("chat.completion", shaped, usage(choices)) | _spent(budget)

    def first_chunk(self, index: int) -> dict[str, Any]:
        """Return the chunk that opens a choice."""
        return self._chunk(index, {"role": "assistant", "content": ""})

    def chunk(self, index: int, piece: Piece) -> dict[str, Any] | None:
        """Return the chunk of one piece; none where it has nothing to show."""
        extra = dict(piece.extra)
        logprobs = extra.pop("logprobs", None)
        if piece.channel == "reasoning":
            if not (piece.text and self.include_reasoning):
                return None
            return self._chunk(index, {"reasoning": piece.text, "reasoning_content": piece.text})
        if not (piece.text or extra or logprobs):
            return None
        delta = {**({"content": piece.text} if piece.text else {}), **extra}
        return self._chunk(index, delta, logprobs)

    def last_chunk(self, index: int, choice: Choice, budget: Budget) -> dict[str, Any]:
        """Return the chunk that closes a choice and carries its citations, and what was spent of a limited budget."""
        return self._chunk(index, choice.proof(), finish_reason=choice.ended_by(budget)) | _spent(budget)

    def usage_chunk(self, choices: Sequence[Choice]) -> dict[str, Any]:
        """Return the chunk of token counts that ends a stream where the client asked for it."""
        return self._wrap("chat.completion.chunk", [], usage(choices))

    def _chunk(
        self, index: int, delta: Mapping[str, Any], logprobs: Any = None, finish_reason: str | None = None
    ) -> dict[str, Any]:
        choice = {"index": index, "delta": dict(delta), "logprobs": logprobs, "finish_reason": finish_reason}
        return self._wrap("chat.completion.chunk", [choice], None)


def _spent(budget: Budget) -> dict[str, Any]:
    """Return the field that says what was spent, where there is a limit at all."""
    return {"budget": budget.page()} if budget.limits.model_dump(exclude_none=True) else {}


def usage(choices: Sequence[Choice]) -> dict[str, Any]:
    """Return OpenAI's token counts; the prompt, which the choices share, counts once."""
    prompt = choices[0].prompt_tokens
    completion = sum(choice.completion_tokens for choice in choices)
    reasoning = sum(choice.reasoning_tokens for choice in choices)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }
