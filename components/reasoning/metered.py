"""A ``generate`` that keeps to a request's budget, and samples that run at the same time within it."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from components.reasoning.budget import Budget
from components.reasoning.events import Generate, Message, Piece, Tools

_USEFUL_TOKENS = 64  # a chain that is cut off earlier seldom gets to its answer: it waits for more, or is left out


def metered(generate: Generate, budget: Budget) -> Generate:
    """Return ``generate`` under a budget: it is never longer than the tokens that are left, and ends with the time.

    A generation that the budget cuts off, or does not let begin, ends with the finish reason ``length``. Tokens of
    one that is given up are counted by its pieces, as the engine no longer tells.
    """

    async def run(
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] = (),
        final: bool = False,
    ) -> AsyncGenerator[Piece, None]:
        if budget.spent():
            yield Piece(finish_reason="length")
            return
        cap = budget.cap(max_tokens)
        budget.promise(cap)
        counted, seen, reason = 0, 0, None
        try:
            call = generate(messages, max_tokens=cap, temperature=temperature, stop=stop, final=final)
            async with aclosing(call) as pieces:
                while (piece := await _next(pieces, budget)) is not None:
                    counted, seen = counted + piece.completion_tokens, seen + bool(piece.text)
                    reason = piece.finish_reason or reason
                    yield piece
            if reason is None:
                yield Piece(finish_reason="length", completion_tokens=0 if counted else seen)
        finally:
            budget.settle(cap, counted or seen)
            if reason == "length" and (cap != max_tokens or budget.unwritten() == 0):
                budget.stop("tokens")

    return run


async def _next(pieces: AsyncGenerator[Piece, None], budget: Budget) -> Piece | None:
    """Return the next piece; none at the end of the generation, and at the end of the budget's time."""

    async def following() -> Piece | None:
        return await anext(pieces, None)

    left = budget.seconds_left()
    if left is None:
        return await following()
    try:
        return await asyncio.wait_for(following(), left)
    except TimeoutError:
        if budget.seconds_left():
            raise
        budget.stop("seconds")
        return None


@dataclass(frozen=True)
class Sample:
    """One generation as a whole."""

    text: str
    finished: bool  # neither its own limit nor the budget cut it off
    prompt_tokens: int = 0
    completion_tokens: int = 0
    index: int = 0

    def thought(self, text: str | None = None) -> Piece:
        """Return it (or another text in its place) as a piece of reasoning that carries its tokens."""
        said = self.text if text is None else text
        counts: dict[str, Any] = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        return Piece(said, "reasoning", **counts)


async def whole(pieces: AsyncGenerator[Piece, None]) -> Sample:
    """Return a generation once it is complete."""
    text, reason, read, written = "", None, 0, 0
    async with aclosing(pieces) as stream:
        async for piece in stream:
            text += piece.text if piece.channel == "content" else ""
            reason = piece.finish_reason or reason
            read, written = read + piece.prompt_tokens, written + piece.completion_tokens
    return Sample(text, reason not in ("length", None), read, written)


async def draw(
    prompts: Sequence[Sequence[Message]],
    tools: Tools,
    *,
    max_tokens: int | None,
    temperature: float,
    stop: Sequence[str] = (),
    at_once: int | None = None,
    counted: bool = True,
) -> AsyncGenerator[Sample, None]:
    """Yield one sample for each prompt in the order in which they end; ``index`` says which prompt it continues.

    All run at the same time, equal prompts over one prefix in the engine's cache. Where the budget cannot promise all
    of them their full length they share what is left; where shares get too small, some wait for what others leave.
    Closing the generator cancels those that run; the failure of one ends all.

    Args:
        at_once: most that run at the same time; none: all.
        counted: whether they are samples in the sense of the budget, and not judgements of samples.
    """
    budget, ended = tools.budget, asyncio.Queue[tuple[int, Sample | BaseException]]()
    share = None if (left := budget.unwritten()) is None else max(1, left // tools.choices)  # of this draw
    running: dict[int, asyncio.Task[None]] = {}
    waiting, taken = set[int](), dict[int, int]()  # what has not begun; what each was promised, then what it wrote

    async def one(index: int, cap: int | None) -> None:
        try:
            waiting.remove(index)
            budget.settle(cap, 0)  # in this very step the generation promises itself what it may write
            call = tools.generate(prompts[index], max_tokens=cap, temperature=temperature, stop=stop)
            sample = await whole(call)
            if not sample.finished and cap != max_tokens:
                budget.stop("tokens")
            ended.put_nowait((index, sample))
        except Exception as error:
            ended.put_nowait((index, error))

    started, wanted = 0, len(prompts)
    try:
        while True:
            while started < wanted and (at_once is None or len(running) < at_once):
                own = None if share is None else share - sum(taken.values())
                cap, waits = _room(budget, max_tokens, own, wanted - started, first=started == 0, alone=not running)
                if waits and running:
                    break
                if waits or (counted and not budget.take("samples")):
                    wanted = started
                    break
                budget.promise(cap)  # at once: another choice may start its samples before these begin to write
                waiting.add(started)
                taken[started] = cap or 0
                running[started] = asyncio.create_task(one(started, cap))
                started += 1
            if not running:
                return
            index, sample = await ended.get()
            del running[index]
            if isinstance(sample, BaseException):
                raise sample
            taken[index] = sample.completion_tokens
            yield replace(sample, index=index)
    finally:
        for task in running.values():
            task.cancel()
        budget.settle(sum(taken[index] for index in waiting), 0)
        await asyncio.gather(*running.values(), return_exceptions=True)


def _room(
    budget: Budget, max_tokens: int | None, own: int | None, waiting: int, *, first: bool, alone: bool
) -> tuple[int | None, bool]:
    """Return (the cap of the next sample, whether it has to wait or, with none running, cannot begin).

    Args:
        own: what the draw may still be promised of its share; none: all that is free.
        alone: no sample of the draw runs.
    """
    left = budget.cap(own)
    if budget.seconds_left() == 0:
        budget.stop("seconds")
        return None, True
    if left is None:
        return max_tokens, False
    share = max(1, left // waiting)
    wanted = share if max_tokens is None else min(max_tokens, max(share, _USEFUL_TOKENS))
    if left >= wanted:
        return wanted, False
    if first and left > 0:
        return left, False
    if alone:
        budget.stop("tokens")
    return None, True
