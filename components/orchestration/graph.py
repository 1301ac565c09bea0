"""A pipeline's steps: what they are, what they wait for, and how one's outputs become another's inputs."""

import re
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal

from components.config import Config, Field, UserError

# <step.output>: what an earlier step returned; <step.run_id> and <step.metrics> are always there.
_REFERENCE = re.compile(r"^<([A-Za-z_][\w-]*)\.([A-Za-z_]\w*)>$")


class SweepConfig(Config):
    """A step run once for each of several points, of which the best is what the steps after it get."""

    grid: dict[str, Any] = Field(
        {}, description="dotted key of the step's config → list of values: every combination is a point"
    )
    points: list[dict[str, Any]] = Field([], description="further points, each dotted key → value")
    metric: str = Field(description="metric of the step that points are compared by: one measured on held-out data")
    mode: Literal["max", "min"] = Field(description="whether more of the metric is better, or less")
    on_failure: Literal["go_on", "fail"] = Field(
        "go_on", description="what a failed point means: the best of the others is taken, or the sweep fails"
    )


class StepConfig(Config):
    """One step: a workflow and its configuration, in which ``<step.output>`` stands for another's output."""

    workflow: str = Field(description="name of the workflow")
    config: dict[str, Any] = Field({}, description="its configuration")
    after: list[str] = Field([], description="steps to wait for beyond those whose outputs it takes")
    sweep: SweepConfig | None = Field(None, description="run it with several configurations and keep the best")


class LoopConfig(Config):
    """Steps that run once a round, each round from what the one before has handed on."""

    rounds: int = Field(ge=1, description="how often the steps run: as <step>-1, <step>-2, …")
    start: dict[str, Any] = Field({}, description="what the first round gets: <loop.name> in its steps")
    carry: dict[str, Any] = Field(
        {}, description="what a round hands on to the next, as <step.output>; outside it is <(the loop).name>"
    )
    steps: dict[str, StepConfig] = Field(min_length=1, description="step name → workflow, config, after")


def is_reference(value: Any) -> bool:
    """Return whether a value stands for a step's output."""
    return isinstance(value, str) and _REFERENCE.match(value) is not None


def split_reference(value: str) -> tuple[str, str]:
    """Return (step, output) of what ``is_reference`` says is one."""
    match = _REFERENCE.match(value)
    assert match is not None, value
    return match[1], match[2]


def references(value: Any) -> Iterator[tuple[str, str]]:
    """Yield (step, output) of each reference within ``value``."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from references(item)
    elif is_reference(value):
        yield split_reference(value)


def order(steps: Mapping[str, StepConfig]) -> dict[str, set[str]]:
    """Return step → steps that it waits for, in an order in which they can run.

    Raises:
        UserError: a step waits for one that is not there, or for itself through others.
    """
    waits = {name: {*step.after, *(found for found, _ in references(_values(step)))} for name, step in steps.items()}
    for name, wanted in waits.items():
        if strangers := wanted - set(steps):
            raise UserError(f"step '{name}' waits for '{sorted(strangers)[0]}': there are {', '.join(steps)}")
    try:
        ordered = list(TopologicalSorter(waits).static_order())
    except CycleError as error:
        raise UserError(f"steps wait for one another in a circle: {' → '.join(error.args[1])}") from error
    return {name: waits[name] for name in ordered}


def fill(value: Any, outputs: Mapping[str, Mapping[str, Any]]) -> Any:
    """Return ``value`` with every ``<step.output>`` replaced.

    Raises:
        UserError: the step has no output of that name.
    """
    if isinstance(value, dict):
        return {key: fill(item, outputs) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, outputs) for item in value]
    if not isinstance(value, str) or (match := _REFERENCE.match(value)) is None:
        return value
    step, name = match.groups()
    if name not in outputs[step]:
        raise UserError(f"{value}: step '{step}' returns {', '.join(sorted(outputs[step]))}")
    return outputs[step][name]


def _values(step: StepConfig) -> list[Any]:
    """Everything of a step that may refer to another one."""
    return [step.config, *([step.sweep.grid, step.sweep.points] if step.sweep else [])]
