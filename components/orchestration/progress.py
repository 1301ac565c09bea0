"""What a pipeline shows while it runs: a live table in a terminal, plain lines in a pipe."""

import sys
import threading
import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_LINE_INTERVAL_S = 15.0


@dataclass
class _Step:
    status: str = "waiting"
    started: float | None = None
    seconds: float | None = None
    done: int = 0
    total: int = 0
    unit: str = ""
    counted_since: float = 0.0  # when the present unit's first progress came
    counted_from: int = 0
    printed: float = 0.0


class Board:
    """Shows each step's state, progress and time left; a context manager, safe to call from threads."""

    def __init__(self, steps: list[str]) -> None:
        self._steps = {name: _Step() for name in steps}
        self._lock = threading.RLock()
        self._live: Live | None = None
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(
                get_renderable=self._table, console=Console(stderr=True), refresh_per_second=2, redirect_stdout=False
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def start(self, name: str) -> None:
        """A step has been submitted."""
        with self._lock:
            step = self._steps[name]
            step.status, step.started = "running", time.monotonic()
        self._print(f"{name}: running")

    def progress(self, name: str, done: int, total: int, unit: str) -> None:
        """A step is at ``done`` of ``total``."""
        with self._lock:
            step, now = self._steps[name], time.monotonic()
            if unit != step.unit or done < step.done:
                step.unit, step.counted_since, step.counted_from = unit, now, done
            step.done, step.total = done, total
            is_due = now - step.printed >= _LINE_INTERVAL_S or done >= total
            if is_due:
                step.printed = now
        if is_due:
            left = _time_left(step)
            self._print(f"{name}: {done}/{total} {unit}" + (f", {left} left" if left else ""))

    def end(self, name: str, status: str, seconds: float) -> None:
        """A step is over: done, cached, failed or blocked."""
        with self._lock:
            self._steps[name].status, self._steps[name].seconds = status, seconds
            over = sum(step.seconds is not None for step in self._steps.values())
        self._print(f"{name}: {status} in {_clock(seconds)} ({over} of {len(self._steps)} steps)")

    def _print(self, line: str) -> None:
        if not self._live:
            print(f"[{_clock(time.monotonic() - self._started)}] {line}", file=sys.stderr, flush=True)

    def _table(self) -> "Table":
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        colours = {"done": "green", "cached": "cyan", "running": "yellow", "failed": "red", "blocked": "red"}
        table = Table(title=f"{_clock(time.monotonic() - self._started)} since the start", title_justify="left")
        for heading in ("step", "state", "time", "progress", "", "left"):
            table.add_column(heading)
        with self._lock:
            for name, step in self._steps.items():
                taken = step.seconds
                if taken is None and step.started is not None:
                    taken = time.monotonic() - step.started
                is_counting = step.status == "running" and step.total
                table.add_row(
                    name,
                    f"[{colours.get(step.status, 'dim')}]{step.status}",
                    _clock(taken) if taken is not None else "",
                    ProgressBar(total=step.total, completed=step.done, width=20) if is_counting else "",
                    f"{step.done}/{step.total} {step.unit}" if is_counting else "",
                    _time_left(step) if is_counting else "",
                )
        return table


def _time_left(step: _Step) -> str:
    counted = step.done - step.counted_from
    if counted <= 0:
        return ""
    rate = counted / max(time.monotonic() - step.counted_since, 1e-6)
    return _clock((step.total - step.done) / rate)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes}:{rest:02d}"
