"""Talks to the engine: one generation as a stream of pieces, stopped when nobody listens any more."""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

from components.reasoning.events import Generate, Message, Piece
from components.serving.adapters import Adapter
from components.serving.errors import from_engine, from_exception
from components.serving.requests import ChatRequest

_TEXT_FIELDS = {"role", "content", "reasoning", "reasoning_content"}
_SEEDS_OF_A_CALL = 1_009  # choices of a request are fewer


async def engine_parts(
    engine: Any, body: dict[str, Any], kind: str, adapter: Adapter | None, retry_after_s: int
) -> AsyncGenerator[dict[str, Any], None]:
    """Yield what the engine's ``generate`` yields; leaving the loop early stops the generation.

    Raises:
        ApiError: the engine refused or failed, or has no place left in its queue.
    """
    parts = engine.options(stream=True).generate.remote(body, kind, adapter.for_engine() if adapter else None)
    try:
        async for part in parts:
            if "error" in part:
                raise from_engine(part["error"])
            yield part
    except (asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        raise from_exception(error, retry_after_s) from error
    finally:
        with suppress(Exception):  # it raises once more what kept the request from a replica: a full queue
            parts.cancel()


def chunks_of(lines: Sequence[str]) -> list[dict[str, Any]]:
    """Return the JSON chunks in server-sent lines, the closing ``[DONE]`` left out.

    Raises:
        ApiError: one of them is an error.
    """
    chunks = []
    for line in lines:
        data = line.strip().removeprefix("data:").strip()
        if data and data != "[DONE]":
            chunk = json.loads(data)
            if "error" in chunk:
                raise from_engine(chunk["error"])
            chunks.append(chunk)
    return chunks


@dataclass(frozen=True)
class Speaker:
    """What all calls for one request have in common."""

    engine: Any
    request: ChatRequest
    request_id: str
    temperature: float  # where neither the client nor the strategy sets one
    adapter: Adapter | None
    retry_after_s: int
    timed: bool = False  # a limit keeps or counts what is written so far: tokens have to come as they are made
    whole: bool = False  # but those of a final call at once, with what only a whole response has in one place
    left_out: frozenset[str] = frozenset()  # fields of the request that the engine is not told


def generator(speaker: Speaker, choice: int) -> Generate:
    """Return the ``generate`` that strategies are handed: this client's sampling, one of its ``n`` choices.

    A client's seed is raised for each choice and each call, as equal seeds would give equal choices and samples.
    """
    calls, request = 0, speaker.request

    async def generate(
        messages: Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        stop: Sequence[str] = (),
        final: bool = False,
    ) -> AsyncGenerator[Piece, None]:
        nonlocal calls
        calls += 1
        fields = request.engine_fields(final=final, left_out=speaker.left_out)
        body = {"temperature": speaker.temperature, **fields, "messages": list(messages)}
        streams = request.stream or (speaker.timed and not (final and speaker.whole))
        body |= {"max_tokens": max_tokens, "n": 1, "stream": streams}
        body["request_id"] = f"{speaker.request_id}-{choice}-{calls}"
        if temperature is not None:
            body["temperature"] = temperature
        if stop:
            body["stop"] = list(stop)
        if streams:
            body["stream_options"] = {"include_usage": True}
        if request.seed is not None:
            body["seed"] = request.seed + choice + _SEEDS_OF_A_CALL * (calls - 1)
        engine, adapter, retry_after_s = speaker.engine, speaker.adapter, speaker.retry_after_s
        async with aclosing(engine_parts(engine, body, "chat", adapter, retry_after_s)) as parts:
            async for part in parts:
                for chunk in [part["response"]] if "response" in part else chunks_of(part["lines"]):
                    for piece in pieces(chunk):
                        yield piece

    return generate


def pieces(chunk: Mapping[str, Any]) -> list[Piece]:
    """Return the pieces in one chunk of a stream, or in one whole response."""
    found = []
    for choice in chunk["choices"]:
        message = choice.get("delta") or choice.get("message") or {}
        extra = {key: value for key, value in message.items() if key not in _TEXT_FIELDS and value}
        if choice.get("logprobs"):
            extra["logprobs"] = choice["logprobs"]
        if thought := message.get("reasoning"):
            found.append(Piece(thought, "reasoning"))
        text, reason = message.get("content") or "", choice.get("finish_reason")
        if text or reason or extra:
            found.append(Piece(text, finish_reason=reason, extra=extra))
    if usage := chunk.get("usage"):
        read, written = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
        found.append(Piece(prompt_tokens=read, completion_tokens=written))
    return found


async def merged(runs: Sequence[AsyncGenerator[Any, None]]) -> AsyncGenerator[tuple[int, Any], None]:
    """Yield (index of the run, item) of all runs as they come; the first failure ends all of them."""
    if len(runs) == 1:
        async with aclosing(runs[0]) as only:
            async for item in only:
                yield 0, item
        return
    queue: asyncio.Queue[tuple[int, Any, BaseException | None]] = asyncio.Queue()
    over = object()

    async def drain(index: int, run: AsyncGenerator[Any, None]) -> None:
        try:
            async for item in run:
                queue.put_nowait((index, item, None))
            queue.put_nowait((index, over, None))
        except Exception as error:
            queue.put_nowait((index, over, error))

    tasks = [asyncio.create_task(drain(index, run)) for index, run in enumerate(runs)]
    try:
        open_runs = len(runs)
        while open_runs:
            index, item, error = await queue.get()
            if error is not None:
                raise error
            if item is over:
                open_runs -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
