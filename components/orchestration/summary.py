"""A pipeline's figures: ``summary.json`` and the before/after table."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.orchestration.schedule import Step

Evaluation = Mapping[str, Mapping[str, float]]  # metric → {"mean", "low", "high", "n"}


def write_summary(
    storage: Path, steps: Mapping[str, Step], evaluations: Mapping[str, Evaluation], seconds: float, peak_bytes: int
) -> Path:
    """Write ``summary.json`` into the storage and return its path."""
    page: dict[str, Any] = {
        "steps": {
            name: {"status": step.status, "seconds": round(step.seconds, 1), "run_id": step.run_id}
            for name, step in steps.items()
        },
        "evaluation": dict(evaluations),
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak_bytes,
    }
    path = storage / "summary.json"
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(page, indent=2))
    os.replace(partial, path)
    return path


def print_evaluations(evaluations: Mapping[str, Evaluation]) -> None:
    """Print one row for each evaluated model, with 95 % bootstrap intervals, to stderr."""
    if not evaluations:
        return
    from rich.console import Console
    from rich.table import Table

    metrics = list(dict.fromkeys(metric for evaluation in evaluations.values() for metric in evaluation))
    table = Table(title="Held-out evaluation: mean [95 % interval]", title_justify="left")
    for heading in ("model", *metrics):
        table.add_column(heading)
    for name, evaluation in evaluations.items():
        table.add_row(name, *(show(evaluation.get(metric)) for metric in metrics))
    Console(stderr=True, width=160, soft_wrap=True).print(table)


def show(value: Mapping[str, float] | None) -> str:
    """Return ``mean [low, high]``, or a dash where the metric was not measured."""
    if value is None:
        return "–"
    digits = 1 if abs(value["mean"]) >= 10 else 3
    return f"{value['mean']:.{digits}f} [{value['low']:.{digits}f}, {value['high']:.{digits}f}]"
