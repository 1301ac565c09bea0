"""Run a YAML graph of workflows as Ray jobs: what is done is recognised, what failed goes on where it stopped."""

import importlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from components.config import Field, UserError, WorkflowConfig
from components.orchestration.graph import LoopConfig, StepConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class Pipeline(WorkflowConfig):
    """A graph of steps, some of them in loops; ``<step.output>`` stands for what another step returned."""

    keyed: ClassVar[bool] = False

    name: str = Field("pipeline", pattern=r"^[\w-]+$", description="name of the MLflow run over the steps")
    max_parallel: int = Field(1, ge=1, description="steps that may run at the same time")
    steps: dict[str, StepConfig] = Field({}, description="step name → workflow, config, after")
    loops: dict[str, LoopConfig] = Field({}, description="loop name → rounds, start, carry, and the steps of a round")
    evaluations: dict[str, str] = Field({}, description="name in summary.json → step output that holds an evaluation")


def main(config: Pipeline, run: "Run") -> "Result":
    """Run the steps, write ``summary.json``, print the before/after table."""
    from components.orchestration.loop import unroll
    from components.orchestration.memory import PeakMemory
    from components.orchestration.schedule import check_steps, run_steps
    from components.orchestration.steps import Setting
    from components.orchestration.summary import conclude
    from components.storage import folder

    whole = unroll(config.steps, config.loops)
    evaluations = whole.lead(config.evaluations, "evaluations")
    check_steps(whole.steps, schema_of, whole.origins)
    started = time.monotonic()
    storage = folder(config.storage)
    setting = Setting(
        folder=storage / "pipeline" / config.name,
        project=Path(__file__).resolve().parents[1],
        parent_run=run.id,
        shared={name: getattr(config, name) for name in ("storage", "experiment")},
        seed=config.seed,
        ray=config.ray.model_copy(update={"address": config.ray.address or os.environ.get("RAY_ADDRESS")}),
        max_parallel=config.max_parallel,
        schema_of=schema_of,
    )
    with PeakMemory() as memory:
        steps = run_steps(whole.steps, setting)
    run.adopt([step.run_id for step in steps.values() if step.status == "cached" and step.run_id], orphans=True)
    seconds = time.monotonic() - started
    return conclude(run, storage, setting.folder, steps, evaluations, seconds, memory.peak_bytes)


def schema_of(workflow: str) -> type[WorkflowConfig]:
    """Return the config class of a workflow, by its module's name.

    Raises:
        UserError: there is no such workflow.
    """
    names = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    if workflow not in names:
        raise UserError(f"there is no workflow '{workflow}': there are {', '.join(names)}")
    return importlib.import_module(f"workflows.{workflow}").main.__annotations__["config"]


def plan(config: Pipeline) -> dict[str, Any]:
    """Return the steps, rounds and points in the order in which they run, and what each waits for."""
    from components.orchestration.loop import unroll
    from components.orchestration.schedule import describe_steps

    whole = unroll(config.steps, config.loops)
    return describe_steps(whole.steps, schema_of, whole.origins)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(Pipeline, main, identity=lambda config: config.name)
