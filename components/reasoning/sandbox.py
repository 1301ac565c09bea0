"""Runs programs that a model wrote where they can do nothing but compute.

The interpreter is pydantic-monty, a Python of its own without files, network, processes or C extensions, in a child
process that dies with each program: what its own limits do not catch, the operating system's do not either survive.
"""

import time
from dataclasses import dataclass
from typing import Any

from components.config import Config, Field

_GRACE_S = 1.0  # for the interpreter to say itself that time is over, before its process is killed
_CONTAINERS = (list, tuple, dict, set)
_TIME_OVER = ("feed time limit", "turn time limit", "sleep limit")


class SandboxLimits(Config):
    """The most that one program may take."""

    seconds: float = Field(2.0, gt=0, le=60, description="run time; its process is killed a second later")
    memory_mib: int = Field(64, ge=1, le=4096, description="memory of the program's values")
    recursion: int = Field(200, ge=10, le=1000, description="calls within calls")
    host_calls: int = Field(20, ge=0, description="operations that would need the host: files, names it does not have")
    output_chars: int = Field(4000, ge=1, description="printed characters that are kept; more end the program")
    source_chars: int = Field(20_000, ge=1, description="longest program")

    def within(self, seconds_left: float | None) -> "SandboxLimits":
        """Return the limits with a run time of at most the seconds that a request has left."""
        if seconds_left is None or seconds_left >= self.seconds:
            return self
        return self.model_copy(update={"seconds": max(0.05, seconds_left)})


@dataclass(frozen=True)
class Outcome:
    """What a program came to: its output, or a sentence on why there is none."""

    value: str  # of its last line if that is an expression, else what it printed; empty where it failed
    error: str = ""  # kind and message, on one line
    printed: str = ""
    seconds: float = 0.0

    @property
    def failed(self) -> bool:
        """Whether it has no result."""
        return bool(self.error)


async def run_program(source: str, limits: SandboxLimits | None = None) -> Outcome:
    """Run a program to its end or its limits; cancelling kills its process.

    Nothing of the program's doing is raised here: a failure of any kind is an ``Outcome``.
    """
    import pydantic_monty as monty

    limits = limits or SandboxLimits()
    if len(source) > limits.source_chars:
        return Outcome("", f"SyntaxError: the program has {len(source)} characters, {limits.source_chars} are allowed")
    printed, began = monty.CollectString(max_bytes=4 * limits.output_chars), time.perf_counter()
    value, error = None, ""
    try:
        watchdog = limits.seconds + _GRACE_S
        async with (
            monty.AsyncMonty(
                min_processes=1, max_processes=1, request_timeout=watchdog, max_checkouts_per_worker=1
            ) as pool,
            pool.checkout(limits=_limits(limits), os_policy={"random_start": {"seed": 0}}) as session,
        ):
            value = await session.feed_run(source, print_callback=printed)
    except monty.MontyError as failure:
        error = _explained(failure, limits)
    output = printed.output[: limits.output_chars]
    seconds = time.perf_counter() - began
    if error:
        return Outcome("", error, output, seconds)
    try:
        shown = "" if value is None else _text(value, limits.output_chars)
    except (ValueError, RecursionError) as failure:  # an integer of too many digits, lists within lists
        return Outcome("", f"{type(failure).__name__}: the result cannot be written out", output, seconds)
    return Outcome(shown or output.strip(), "", output, seconds)


def _text(value: Any, most: int) -> str:
    """A value as Python writes it, up to ``most`` characters: a small program can make a value of any length."""
    pieces: list[str] = []
    room = most

    def put(piece: str) -> None:
        nonlocal room
        pieces.append(piece)
        room -= len(piece)

    def write(part: Any) -> None:
        if room <= 0:
            return
        if type(part) not in _CONTAINERS or not part:
            return put(repr(part))
        marks = "[]" if isinstance(part, list) else "()" if isinstance(part, tuple) else "{}"
        put(marks[0])
        for place, item in enumerate(part):
            if room <= 0:
                return
            put(", " if place else "")
            write(item)
            if isinstance(part, dict):
                put(": ")
                write(part[item])
        put(",)" if isinstance(part, tuple) and len(part) == 1 else marks[1])

    if type(value) not in _CONTAINERS:
        return str(value)[:most]
    write(value)
    return "".join(pieces)[:most]


def _limits(limits: SandboxLimits) -> Any:
    return {
        "max_feed_duration_secs": limits.seconds,
        "max_memory": limits.memory_mib << 20,
        "max_recursion_depth": limits.recursion,
        "max_suspensions": limits.host_calls,
        "max_total_sleep_secs": 0.0,
    }


def _explained(failure: Any, limits: SandboxLimits) -> str:
    """The failure as one line: its kind, and a message that names the limit where it was one."""
    if getattr(failure, "timed_out", False):
        return f"TimeoutError: the program did not end within {limits.seconds:g} s and was killed"
    inner, message = failure.exception(), " ".join(str(failure).split())[:300]
    kind = type(inner).__name__
    if kind == "TimeoutError" and any(said in message for said in _TIME_OVER):
        return f"TimeoutError: the program did not end within {limits.seconds:g} s"
    if kind == "MemoryError":
        return f"MemoryError: the program needs more than {limits.memory_mib} MiB or prints too much"
    if type(failure).__name__ == "MontyCrashedError":
        return f"RuntimeError: the program brought its interpreter down ({message})"
    return message if message.startswith(kind) else f"{kind}: {message}"
