"""Peak memory of a pipeline: its own processes and those of the cluster that it started."""

import threading
from types import TracebackType
from typing import Self

_INTERVAL_S = 2.0


class PeakMemory:
    """Samples the proportional set size (PSS) of this process and its descendants while the context is open.

    PSS counts a page that n processes share as 1/n in each, so the sum is what the machine really holds.
    """

    def __init__(self) -> None:
        self.peak_bytes = 0
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

    def _sample(self) -> None:
        import psutil

        me = psutil.Process()
        while not self._stop.wait(_INTERVAL_S):
            total = 0
            for process in (me, *me.children(recursive=True)):
                try:
                    memory = process.memory_full_info()
                except psutil.Error:  # it has ended since it was listed
                    continue
                total += getattr(memory, "pss", memory.rss)
            self.peak_bytes = max(self.peak_bytes, total)
