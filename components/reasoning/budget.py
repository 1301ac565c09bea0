"""What one request may spend: tokens, samples, seconds and tool calls."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

from components.config import Config, Field

Kind = Literal["tokens", "samples", "seconds", "tool_calls"]
T = TypeVar("T")
KINDS: tuple[Kind, ...] = ("tokens", "samples", "seconds", "tool_calls")


class Limits(Config):
    """The most that a request may spend; none is no limit."""

    tokens: int | None = Field(None, ge=1, description="tokens written, by all samples and calls together")
    samples: int | None = Field(None, ge=1, description="chains that are sampled")
    seconds: float | None = Field(None, gt=0, description="wall time until the answer is complete")
    tool_calls: int | None = Field(None, ge=0, description="calls of tools, programs that are run among them")

    def within(self, other: "Limits | None") -> "Limits":
        """Return the lower of both for each kind: a client may tighten what its name allows, not widen it."""
        if other is None:
            return self
        pairs = {kind: [v for v in (getattr(self, kind), getattr(other, kind)) if v is not None] for kind in KINDS}
        return Limits(**{kind: min(values, default=None) for kind, values in pairs.items()})


class Budget:
    """What a request has spent of its limits: one object for all of its choices, samples and calls.

    ``stopped_by`` is the first limit that kept something from being done; none while everything was done.
    """

    def __init__(self, limits: Limits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits, self._clock, self._began = limits or Limits(), clock, clock()
        self.tokens, self.samples, self.tool_calls = 0, 0, 0
        self.stopped_by: Kind | None = None
        self._promised = 0  # to generations that run

    def seconds_left(self) -> float | None:
        """Return the seconds until the limit, at least 0; none where there is no limit."""
        limit = self.limits.seconds
        return None if limit is None else max(0.0, limit - (self._clock() - self._began))

    def unwritten(self) -> int | None:
        """Return the tokens that are not written yet, also those promised to generations that run."""
        limit = self.limits.tokens
        return None if limit is None else max(0, limit - self.tokens)

    def cap(self, max_tokens: int | None) -> int | None:
        """Return the longest generation that can begin now, at most ``max_tokens``; none is no limit, 0 none at all."""
        left = self.unwritten()
        if left is None:
            return max_tokens
        free = max(0, left - self._promised)
        return free if max_tokens is None else min(free, max_tokens)

    def promise(self, tokens: int | None) -> None:
        """Keep ``tokens`` for a generation that begins."""
        self._promised += tokens or 0

    def settle(self, promised: int | None, written: int) -> None:
        """Count what a generation wrote, and free the rest of what it was promised."""
        self._promised -= promised or 0
        self.tokens += written

    def spent(self) -> bool:
        """Return whether nothing more can be generated; whoever asks is about to, so the limit has stopped it."""
        if self.cap(None) == 0:
            self.stop("tokens")
        elif self.seconds_left() == 0:
            self.stop("seconds")
        else:
            return False
        return True

    def affords(self, tokens: int) -> bool:
        """Return whether a step of ``tokens`` leaves as many for what follows it; where not, the limit has stopped it.

        What is written before an answer must not eat up the answer.
        """
        left = self.cap(None)
        if left is not None and left < 2 * tokens:
            self.stop("tokens")
            return False
        return not self.spent()

    def take(self, kind: Literal["samples", "tool_calls"]) -> bool:
        """Return whether one more of ``kind`` may be had, and count it if so."""
        limit, used = getattr(self.limits, kind), getattr(self, kind)
        if limit is not None and used >= limit:
            self.stop(kind)
            return False
        setattr(self, kind, used + 1)
        return True

    def stop(self, kind: Kind) -> None:
        """Note that a limit kept something from being done; the first one stays."""
        self.stopped_by = self.stopped_by or kind

    def page(self) -> dict[str, Any]:
        """Return what a client is told: its limits, what it spent, and which limit cut it short."""
        used = {"tokens": self.tokens, "samples": self.samples, "tool_calls": self.tool_calls}
        seconds = round(self._clock() - self._began, 3)
        limits = self.limits.model_dump(exclude_none=True)
        return {"spent": self.stopped_by, "limits": limits, "used": {**used, "seconds": seconds}}


async def within(budget: Budget, work: Awaitable[T]) -> T | None:
    """Return what an index, a scorer or an embedder says; none where it takes longer than there is time.

    Raises:
        Exception: what ``work`` raises, a timeout of its own included.
    """
    left = budget.seconds_left()
    if left is None:
        return await work
    try:
        return await asyncio.wait_for(work, left)
    except TimeoutError:
        if budget.seconds_left():
            raise
        budget.stop("seconds")
        return None


def reasoning_share(max_tokens: int | None, max_reasoning_tokens: int) -> int:
    """Return how many tokens reasoning may take: its own limit, and at most half of what the client allows."""
    if max_tokens is None:
        return max_reasoning_tokens
    return max(1, min(max_reasoning_tokens, max_tokens // 2))


def what_is_left(max_tokens: int | None, used: int) -> int | None:
    """Return what remains of the client's limit (no limit stays none); an answer gets one token at least."""
    return None if max_tokens is None else max(1, max_tokens - used)
