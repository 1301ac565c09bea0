"""A sweep: one step with several configurations (points), each a job of its own, and the best of them."""

import copy
import hashlib
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.config import UserError, leaves
from components.orchestration.graph import StepConfig, SweepConfig

_MOST_POINTS = 1_000  # a grid of more is a slip, not a plan


@dataclass(frozen=True)
class Point:
    """One point of a sweep: a step like any other, named after the sweep with a number."""

    name: str
    values: dict[str, Any]  # dotted key → value
    step: StepConfig


@dataclass(frozen=True)
class Outcome:
    """How a point ended."""

    point: Point
    status: str  # done | cached | failed | blocked
    seconds: float
    run_id: str | None
    metrics: dict[str, float]
    error: str

    def value(self, metric: str) -> float | None:
        """The metric that points are compared by; none where the point has no such number."""
        value = self.metrics.get(metric) if self.status in ("done", "cached") else None
        return value if value is not None and math.isfinite(value) else None


def points_of(name: str, step: StepConfig) -> list[Point]:
    """The points of a step's sweep: the grid in the order of its keys, then the further points.

    Raises:
        UserError: there are none, a point is there twice, a grid's key has no list, or a key leads through a value.
    """
    assert step.sweep is not None, f"{name} has no sweep"
    where = f"steps.{name}.sweep"
    grid = dict(_lists(step.sweep.grid, f"{where}.grid."))
    chosen = [dict(zip(grid, row, strict=True)) for row in _product(grid, where)] if grid else []
    chosen += [leaves(point) for point in step.sweep.points]
    if not chosen:
        raise UserError(f"{where} has no points: give grid (key → list of values) or points")
    known: dict[str, int] = {}
    for number, values in enumerate(chosen, 1):
        if not values:
            raise UserError(f"{where}.points: an empty point changes nothing: give it a key and a value")
        first = known.setdefault(json.dumps(values, sort_keys=True), number)
        if first != number:
            raise UserError(f"{where}: the point {shown(values)} is there twice (numbers {first} and {number})")
    return [Point(f"{name}-{number}", values, _with(step, values, where)) for number, values in enumerate(chosen, 1)]


def expand(steps: Mapping[str, StepConfig]) -> tuple[dict[str, StepConfig], dict[str, list[Point]]]:
    """(all steps, a sweep's points after it, as steps that wait for what it waits for; sweep → its points).

    Raises:
        UserError: as ``points_of``, or a point would have another step's name.
    """
    sweeps = {name: points_of(name, step) for name, step in steps.items() if step.sweep}
    points = {point.name: point.step for own in sweeps.values() for point in own}
    if taken := sorted(set(points) & set(steps)):
        raise UserError(f"the step '{taken[0]}' has the name of a point of a sweep: rename it")
    return {**steps, **points}, sweeps


def best_of(outcomes: Sequence[Outcome], sweep: SweepConfig) -> Outcome | None:
    """The point with the best value of the metric, the first of equals; none where no point has one."""
    measured = [outcome for outcome in outcomes if outcome.value(sweep.metric) is not None]
    sign = 1 if sweep.mode == "max" else -1
    return max(measured, key=lambda outcome: sign * (outcome.value(sweep.metric) or 0.0), default=None)


def what_failed(outcomes: Sequence[Outcome], metric: str) -> list[str]:
    """A sentence for each point that has no value of the metric."""
    told = []
    for outcome in outcomes:
        if outcome.value(metric) is None:
            name = f"point {outcome.point.name} ({shown(outcome.point.values)})"
            if outcome.status not in ("done", "cached"):
                told.append(f"{name} {outcome.status}: {outcome.error}")
            elif metric in outcome.metrics:
                told.append(f"{name} has {metric} = {outcome.metrics[metric]}, which is no number to compare")
            else:
                told.append(f"{name} has no metric '{metric}': it has {', '.join(sorted(outcome.metrics)) or 'none'}")
    return told


def comparison(name: str, sweep: SweepConfig, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The points side by side, as plain values for the report and for MLflow."""
    best = best_of(outcomes, sweep)
    return {
        "sweep": name,
        "metric": sweep.metric,
        "mode": sweep.mode,
        "keys": list(dict.fromkeys(key for outcome in outcomes for key in outcome.point.values)),
        "best": best.point.name if best else None,
        "points": [
            {
                "name": outcome.point.name,
                "values": outcome.point.values,
                "value": outcome.value(sweep.metric),
                "status": outcome.status,
                "seconds": round(outcome.seconds, 1),
                "run_id": outcome.run_id,
                "error": outcome.error,
            }
            for outcome in outcomes
        ],
    }


def sweep_key(name: str, sweep: SweepConfig, outcomes: Sequence[Outcome]) -> str:
    """What tells one comparison from another: the points, how each ended, and by what they are compared."""
    ends = [(outcome.point.values, outcome.run_id, outcome.value(sweep.metric)) for outcome in outcomes]
    text = json.dumps(["sweep", name, sweep.metric, sweep.mode, ends], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def shown(values: Mapping[str, Any]) -> str:
    """A point's values for people."""
    return ", ".join(f"{key}={value}" for key, value in values.items())


def _with(step: StepConfig, values: Mapping[str, Any], where: str) -> StepConfig:
    """The step with these values in its configuration and without the sweep."""
    config = copy.deepcopy(step.config)
    for dotted, value in values.items():
        section = config
        *parents, last = dotted.split(".")
        for parent in parents:
            section = section.setdefault(parent, {})
            if not isinstance(section, dict):
                raise UserError(
                    f"{where}: '{dotted}' leads through '{parent}', which is {section!r} in the step's config"
                )
        section[last] = value
    return step.model_copy(update={"config": config, "sweep": None})


def _product(grid: Mapping[str, Sequence[Any]], where: str) -> list[tuple[Any, ...]]:
    size = math.prod(len(values) for values in grid.values())
    if size > _MOST_POINTS:
        raise UserError(f"{where}.grid has {size} points: {_MOST_POINTS} are allowed; list the ones you want as points")
    return list(itertools.product(*grid.values()))


def _lists(grid: Mapping[str, Any], where: str, prefix: str = "") -> "list[tuple[str, list[Any]]]":
    """(dotted key, values) of a grid; sections within sections, as overrides make them, are unfolded."""
    found: list[tuple[str, list[Any]]] = []
    for key, value in grid.items():
        if isinstance(value, dict):
            found += _lists(value, where, f"{prefix}{key}.")
        elif isinstance(value, list) and value:
            found.append((prefix + key, value))
        else:
            raise UserError(f"'{where}{prefix}{key}' got {value!r}: give a list of values")
    return found
