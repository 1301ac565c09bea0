"""Runs one side of a benchmark in processes of its own, and watches its memory and its progress."""

import contextlib
import os
import re
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from components.config import CPU_ENV, Config, Field
from components.progress import progress

_POLL_S, _STOP_S = 0.2, 60.0
_PROGRESS = re.compile(r"progress (\d+)/(\d+) (iterations|steps)")
_PRIVATE = ("RAY_", "PYTHON", "MALLOC_")  # of this process, not of a side's


class Watched(Config):
    """How a task's sides are run and watched."""

    threads: int | None = Field(None, ge=1, description="cores of each side; none takes all")
    memory_interval_s: float = Field(
        5.0, gt=0, description="seconds between two looks at a side's memory; a look at 8 GB takes 0.15 s of a core"
    )


class Memory(Protocol):
    """Watches the memory of a process and its descendants."""

    peak_bytes: int
    peak_by_process: dict[str, int]

    def lap(self) -> int:
        """Return the peak since the last lap, in bytes."""


@dataclass(frozen=True)
class Ran:
    """What a side wrote to stdout, and the memory that it took."""

    lines: list[str]
    laps: list[int]  # peak bytes of each iteration (step); of the first: from the start of the process
    peak: int
    peak_by_process: dict[str, int]  # bytes by kind of process, at that peak


@dataclass(frozen=True)
class Arena:
    """Where and how both sides run."""

    folder: Path  # for logs
    project: Path  # the folder that they run in
    threads: int
    memory_of: Callable[[int], AbstractContextManager[Memory]]  # watches the process with this id
    has_gpus: bool = False  # whether the sides may use those of this machine

    def run(self, name: str, command: Sequence[str], *, keeps_memory: bool = True) -> Ran:
        """Run ``command`` until it ends; at the end of each iteration it says ``progress n/N iterations`` on stderr.

        Args:
            command: its iterations may be called steps.
            keeps_memory: whether the C library keeps what is freed, as it does in our workers (``CPU_ENV``); if not,
                it gives it back to the system, as it does where nobody tells it otherwise.

        Raises:
            RuntimeError: it failed; the message has its last words and the name of its log.
        """
        out, log = self.folder / f"{name}.out", self.folder / f"{name}.log"
        laps: list[int] = []
        with out.open("w") as stdout, log.open("w") as stderr, log.open(errors="replace") as said:
            process = subprocess.Popen(
                command, env=self._env(keeps_memory), cwd=self.project, stdout=stdout, stderr=stderr
            )
            try:
                with self.memory_of(process.pid) as memory:
                    is_running, rest = True, ""
                    while is_running:
                        time.sleep(_POLL_S)
                        is_running = process.poll() is None  # what it wrote before is read yet
                        rest = _follow(rest + said.read(), name, laps, memory)
            finally:
                _stop(process)
        lines = out.read_text().splitlines()
        if process.returncode:
            last = [*log.read_text(errors="replace").splitlines(), *lines][-3:]
            raise RuntimeError(f"{name} ended with code {process.returncode}, see {log}: {' | '.join(last)[-1500:]}")
        return Ran(lines, laps, memory.peak_bytes, memory.peak_by_process)

    def _env(self, keeps_memory: bool) -> dict[str, str]:
        """Return this process's environment less what it says of its Python, Ray and allocator."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_PRIVATE)}
        offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        offline |= {} if self.has_gpus else {"CUDA_VISIBLE_DEVICES": ""}
        return kept | (CPU_ENV if keeps_memory else {}) | offline | {"OMP_NUM_THREADS": str(self.threads)}


@dataclass(frozen=True)
class Setting:
    """What a benchmark is given besides its task."""

    arena: Arena
    ours: Sequence[str]  # our own workflow's command
    model: Path
    digest: str
    cache: Path
    seed: int


@dataclass(frozen=True)
class Outcome:
    """What a benchmark found."""

    page: str  # everything that was measured, as JSON
    figures: dict[str, float]  # every comparison
    plots: dict[str, Any] = field(default_factory=dict)  # name of a file → matplotlib figure


def _follow(text: str, name: str, laps: list[int], memory: Memory) -> str:
    """Look at new lines of the log, where a new iteration ends a lap; return the half line at the end."""
    whole, _, rest = text.rpartition("\n")
    for done, total, unit in _PROGRESS.findall(whole):
        if int(done) > len(laps):
            laps += [memory.lap()] * (int(done) - len(laps))
            progress(int(done), int(total), f"{unit} of {name}")
    return rest


def _stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        process.kill()
        process.wait()
