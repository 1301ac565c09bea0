"""A pipeline's figures: ``summary.json`` and the before/after table."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.config import UserError
from components.orchestration.graph import fill
from components.orchestration.steps import Step
from components.tracking.run import Result, Run

Evaluation = Mapping[str, Mapping[str, float]]  # metric → {"mean", "low", "high", "n"}


def conclude(
    run: Run,
    storage: Path,
    folder: Path,
    steps: Mapping[str, Step],
    wanted: Mapping[str, str],
    seconds: float,
    peak_bytes: int,
) -> Result:
    """Write and log ``summary.json``, print the before/after table, return what the pipeline made.

    Args:
        folder: the pipeline's own; the storage has the summary of whichever pipeline ended last.
        wanted: name of an evaluation → ``<step.output>`` that holds it; left out where a step failed.

    Raises:
        UserError: only steps failed whose input was wrong.
        RuntimeError: another step failed. A point of a sweep is the sweep's business, not ours.
    """
    failed = {name: step for name, step in steps.items() if step.status == "failed" and step.sweep is None}
    evaluations = {} if failed else fill(dict(wanted), {name: step.outputs for name, step in steps.items()})
    own, latest = (write_summary(place, steps, evaluations, seconds, peak_bytes) for place in (folder, storage))
    run.log_artifact(own)
    print_evaluations(evaluations)
    if failed:
        errors = "; ".join(f"step {name}: {step.error}" for name, step in failed.items())
        raise (UserError if all(step.is_users_error for step in failed.values()) else RuntimeError)(errors)
    reports = [step.outputs["report"] for step in steps.values() if "report" in step.outputs]
    outputs = {"summary": str(own), "latest": str(latest), **({"report": reports[-1]} if reports else {})}
    cached = sum(step.status == "cached" for step in steps.values())
    return Result(outputs, {"steps": len(steps), "steps_cached": cached, "seconds": seconds})


def write_summary(
    folder: Path, steps: Mapping[str, Step], evaluations: Mapping[str, Evaluation], seconds: float, peak_bytes: int
) -> Path:
    """Write ``summary.json`` into the folder and return its path."""
    page: dict[str, Any] = {
        "steps": {
            name: {"status": step.status, "seconds": round(step.seconds, 1), "run_id": step.run_id}
            for name, step in steps.items()
        },
        "evaluation": dict(evaluations),
        "seconds": round(seconds, 1),
        "peak_memory_bytes": peak_bytes,
    }
    folder.mkdir(parents=True, exist_ok=True)  # no step may have run
    path = folder / "summary.json"
    partial = path.with_suffix(f".{os.getpid()}.partial")
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
