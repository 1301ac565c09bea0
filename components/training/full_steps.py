"""What full fine-tuning would have taken in an adapter's place, measured: a few steps of it, after the training.

They run as the training did (loop, rows, batch, number format, sharding, workers), in new worker processes, so that the
peak memory is their own. The learning rate is 0: no figure depends on it, and an adapter's could break whole weights.
"""

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.models.adapters import AdapterConfig
from components.training import cost
from components.training.launch import FOLDER, launch
from components.training.rows import Tokenized, write_rows
from components.training.settings import Recipe, group_sizes

FULL_FOLDER = "full"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unlogged:
    """Stands in a payload for the run's handle: these steps are no part of its curves, and nothing restarts them."""

    storage: str = ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Do nothing."""


def measure(
    loop: Callable[[dict[str, Any]], dict[str, Any]],
    payload: Mapping[str, Any],
    recipe: Recipe,
    run_dir: Path,
    rows: Tokenized,
    order: Sequence[int],
) -> dict[str, float]:
    """Return what ``recipe.full_steps`` steps without the adapter take; ``cost/full_failed`` where they fail.

    They may well fail where the adapter did not, for want of memory: that is told, and costs nobody the adapter.

    Args:
        payload: what the loop trained the adapter with.
        order: the training's batches, one after the other, as numbers of ``rows``.
    """
    folder, optim = run_dir / FULL_FOLDER, recipe.optim
    shutil.rmtree(folder, ignore_errors=True)  # of a measurement that was killed
    batches = typical(order, rows.lengths, optim.batch_size, optim.micro_batch_size, recipe.full_steps)
    adapter = AdapterConfig(name="none")
    scale = recipe.scale.model_copy(update={"max_failures": 0})  # what does not fit will not fit the next time
    whole = {
        **payload,
        "run": Unlogged(),
        "adapter": adapter.model_dump(),
        "arguments": {
            **payload["arguments"],
            "output_dir": str(folder / FOLDER),
            "max_steps": recipe.full_steps,
            "learning_rate": 0.0,
            "save_strategy": "no",
        },
        "train": write_rows([rows.rows[row] for batch in batches for row in batch], folder / "train.parquet"),
        "eval": None,
        "out": None,
        "evidence": str(folder / "evidence.json"),
    }
    logger.info("measuring full fine-tuning: %d steps, nothing of which is kept", recipe.full_steps)
    try:
        launch(loop, whole, scale, folder, {}, group_sizes(optim, scale))
        found = cost.measured(folder)
    except Exception as error:
        logger.warning(
            "full fine-tuning could not be measured, so that the run has no cost/full_* and cost/saved_* figures; the "
            "adapter is trained, and is kept: %s",
            _reason(error),
        )
        return {"cost/full_failed": 1.0}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {name.replace("cost/", "cost/full_"): value for name, value in found.items()}


def saved(adapter: Mapping[str, float], full: Mapping[str, float]) -> dict[str, float]:
    """Return by how much the full steps took more than the adapter's, of what both have figures of."""
    names = {"step_seconds": "saved_step_seconds", "peak_memory_bytes": "saved_memory_bytes"}
    return {
        f"cost/{difference}": full[f"cost/full_{name}"] - adapter[f"cost/{name}"]
        for name, difference in names.items()
        if f"cost/full_{name}" in full and f"cost/{name}" in adapter
    }


def typical(
    order: Sequence[int], lengths: Sequence[int], batch_size: int, micro_batch_size: int, count: int
) -> list[Sequence[int]]:
    """Return as many of a training's batches, to be compared with all of them.

    The one with the longest row comes first: it has the peak of memory, and the first step's time does not count. The
    others are spread evenly over the batches by their padded tokens, so that the median step is the training's.
    """
    batches = [order[at : at + batch_size] for at in range(0, len(order), batch_size)]

    def padded(batch: Sequence[int]) -> int:
        passes = (batch[at : at + micro_batch_size] for at in range(0, len(batch), micro_batch_size))
        return sum(max(lengths[row] for row in one) for one in passes)

    longest, by_tokens = max(batches, key=lambda batch: max(lengths[row] for row in batch)), sorted(batches, key=padded)
    others = count - 1
    return [longest, *(by_tokens[(2 * number + 1) * len(batches) // (2 * others)] for number in range(others))]


def _reason(error: Exception) -> str:
    """Return an error in one line: a worker's own where it came from a worker."""
    failures = getattr(error, "worker_failures", None) or {0: error}
    first = next(iter(failures.values()))
    lines = [line.strip() for line in str(first).splitlines() if line.strip()]
    return f"{type(first).__name__}: {lines[-1] if lines else 'no reason given'}"
