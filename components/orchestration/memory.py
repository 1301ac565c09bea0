"""Peak memory of a process and all that it started: a pipeline with its cluster, one side of a benchmark."""

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import psutil

_INTERVAL_S = 2.0
_WORTH_A_LOOK = 32 * 2**20  # bytes of growth; the peak that is told may be that much too low


class PeakMemory:
    """Samples the proportional set size (PSS) of a process and its descendants while the context is open.

    PSS counts a page that n processes share as 1/n in each, so the sum is what the machine really holds. The kernel
    walks every page to tell it (0.3 s for a training and its cluster), so it is asked only where the sizes that it
    keeps at hand have grown since.
    """

    def __init__(self, pid: int | None = None, interval_s: float = _INTERVAL_S) -> None:
        """Watch the process ``pid``, or this one."""
        self.peak_bytes = 0
        self.peak_by_process: dict[str, int] = {}  # name → bytes of all processes of that name, at the peak
        self._lap_bytes = 0
        self._looked_at = 0  # what was at hand when this lap's largest PSS was taken
        self._pid, self._interval_s = pid, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def lap(self) -> int:
        """Return the peak since the last lap, or since the start, in bytes; it looks once more itself."""
        self._look()
        peak, self._lap_bytes, self._looked_at = self._lap_bytes, 0, 0
        return peak

    def _sample(self) -> None:
        while not self._stop.wait(self._interval_s):
            at_hand = _at_hand(self._pid)
            if at_hand > self._looked_at + _WORTH_A_LOOK:
                self._looked_at = at_hand
                self._look()

    def _look(self) -> None:
        import psutil

        held: dict[str, int] = {}
        for process in _family(self._pid):
            try:
                memory, name = process.memory_full_info(), _name(process)
            except psutil.Error:  # it has ended since it was listed
                continue
            held[name] = held.get(name, 0) + getattr(memory, "pss", memory.rss)
        total = sum(held.values())
        if total > self.peak_bytes:
            self.peak_bytes, self.peak_by_process = total, held
        self._lap_bytes = max(self._lap_bytes, total)


def _at_hand(pid: int | None) -> int:
    """Return about what a process and its descendants hold, in bytes: all private pages, and the most shared ones."""
    import psutil

    private, shared = 0, 0
    for process in _family(pid):
        try:
            memory = process.memory_info()
        except psutil.Error:
            continue
        own = getattr(memory, "shared", 0)
        private, shared = private + memory.rss - own, max(shared, own)
    return private + shared


def _name(process: "psutil.Process") -> str:
    """Return what a process is: Ray's workers say whose they are in place of their command line."""
    words = process.cmdline()
    return words[0].split(".")[0] if words and words[0].startswith("ray::") else process.name()


def _family(pid: int | None) -> "list[psutil.Process]":
    """Return a process and its descendants; none if it has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
