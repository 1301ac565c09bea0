"""What a training took: weights trained, memory and time of a step, beside what training all weights would take."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config import UserError
from components.models.folder import write_whole
from components.training.estimate import planned_memory
from components.training.settings import Recipe

FILE = "cost.json"


def write(folder: Path, model: Any, steps_s: Sequence[float]) -> None:
    """Write what this worker has measured: on a CPU, the memory is that of its whole process at its largest.

    Of the steps the median counts; the first one, which also sets things up, is left out if others follow.
    """
    found: dict[str, float] = {
        "cost/trained_parameters": trained_parameters(model),
        "cost/peak_memory_bytes": peak_memory_bytes(),
    }
    if steps_s:
        found["cost/step_seconds"] = statistics.median(steps_s[1:] or steps_s)
    write_whole(folder / FILE, json.dumps(found))


def take_over(checkpoint: Path, folder: Path) -> None:
    """Let what was measured until a checkpoint count for the run: one that had nothing left to train has no steps."""
    if (checkpoint / FILE).is_file():
        write_whole(folder / FILE, (checkpoint / FILE).read_text())


def measured(folder: Path) -> dict[str, float]:
    """Return what was measured in a run's folder, once: the file goes."""
    path = folder / FILE
    found = json.loads(path.read_text()) if path.is_file() else {}
    path.unlink(missing_ok=True)
    return {name: float(value) for name, value in found.items()}


def figures(folder: Path, model: Path, recipe: Recipe, batch_tokens: int, dtype: str) -> dict[str, float]:
    """Return what was measured in a run's folder and, by the planner's arithmetic, what the adapter saved.

    The saving is the arithmetic's for full fine-tuning less the arithmetic's for this run: weights, gradients,
    optimizer, activations and logits of one worker. A base that it cannot read has none.
    """
    found = measured(folder)
    try:
        planned = planned_memory(model, recipe, batch_tokens, dtype)
    except UserError:
        return found
    found |= {"cost/parameters": planned.parameters, "cost/planned_bytes": planned.bytes}
    if recipe.adapter.name != "none":
        found["cost/planned_full_bytes"] = planned.full_bytes
        found["cost/planned_saved_bytes"] = planned.full_bytes - planned.bytes
    return {name: float(value) for name, value in found.items()}


def trained_parameters(model: Any) -> int:
    """Return how many numbers are trained, whatever part of them this worker holds (ZeRO-3)."""
    return sum(getattr(weight, "ds_numel", weight.numel()) for weight in model.parameters() if weight.requires_grad)


def peak_memory_bytes() -> int:
    """Return the most memory so far: the GPU's that torch has allocated, else the process's."""
    import resource

    import torch

    from components.models.load import has_gpu

    if has_gpu():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
