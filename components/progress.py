"""One line of progress that a terminal, a plain log and the pipeline's display all read."""

import sys
import time

_INTERVAL_S = 1.0
_last_printed: dict[str, float] = {}


def progress(done: int, total: int, unit: str) -> None:
    """Print ``progress done/total unit`` to stderr, at most once a second for each unit.

    Works in any process: Ray forwards a worker's stderr to the driver's log, where the pipeline
    finds the line again by its shape. The first and the last line are always printed.
    """
    now = time.monotonic()
    is_edge = done >= total or unit not in _last_printed
    if is_edge or now - _last_printed[unit] >= _INTERVAL_S:
        _last_printed[unit] = now
        print(f"progress {done}/{total} {unit}", file=sys.stderr, flush=True)
