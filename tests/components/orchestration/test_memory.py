"""Peak memory of a process that grows and shrinks, and how often the kernel has to walk its pages for it."""

import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from components.orchestration.memory import PeakMemory

MIB = 2**20
GROWS = "\n".join(
    [
        "import sys",
        "print('small', flush=True)",
        "for line in sys.stdin:",
        "    held = None",
        "    held = bytearray(int(line))",
        "    held[::1024] = bytes(len(held[::1024]))",  # every page is touched
        "    print('held', flush=True)",
    ]
)


@pytest.fixture
def grower() -> Iterator[Any]:
    """A process that holds as many bytes as it is told, and no more."""
    with subprocess.Popen([sys.executable, "-c", GROWS], stdin=-1, stdout=-1, text=True, bufsize=1) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "small\n"
        yield process
        process.stdin.close()


def hold(process: Any, size: int) -> None:
    process.stdin.write(f"{size}\n")
    assert process.stdout.readline() == "held\n"
    time.sleep(0.3)


def test_the_peak_outlives_what_was_held(grower: Any) -> None:
    with PeakMemory(grower.pid, 0.02) as memory:
        hold(grower, 0)
        small = memory.peak_bytes
        hold(grower, 200 * MIB)
        hold(grower, 0)
    assert small < 100 * MIB
    # a look in mid-growth is not repeated for the last 32 MiB: that much a told peak may be too low
    assert (200 - 32) * MIB < memory.peak_bytes < small + 250 * MIB
    assert sum(memory.peak_by_process.values()) == memory.peak_bytes


def test_each_lap_has_a_peak_of_its_own(grower: Any) -> None:
    with PeakMemory(grower.pid, 0.02) as memory:
        hold(grower, 200 * MIB)
        assert memory.lap() > 200 * MIB
        hold(grower, 0)
        memory.lap()  # begins while the bytes were still held
        hold(grower, 100 * MIB)
        assert 100 * MIB < memory.lap() < 200 * MIB
        assert memory.peak_bytes > 200 * MIB


def test_pages_are_walked_only_after_growth(grower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    walks = []
    look = PeakMemory._look
    monkeypatch.setattr(PeakMemory, "_look", lambda self: (walks.append(1), look(self))[1])
    with PeakMemory(grower.pid, 0.02):
        hold(grower, 100 * MIB)
        settled = len(walks)
        hold(grower, 0)
        hold(grower, 50 * MIB)
        hold(grower, 100 * MIB)
    assert settled >= 1 and len(walks) == settled


def test_a_process_that_has_ended_holds_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    with PeakMemory(process.pid, 0.02) as memory:
        time.sleep(0.1)
    assert memory.peak_bytes == 0
