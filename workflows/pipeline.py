"""Run a YAML graph of workflows as Ray jobs: what is done is recognised, what failed goes on where it stopped."""

import importlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import Field, UserError, WorkflowConfig
from components.orchestration.graph import StepConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class Pipeline(WorkflowConfig):
    """A graph of steps; in a step's config ``<step.output>`` stands for what another step returned."""

    name: str = Field("pipeline", pattern=r"^[\w-]+$", description="name of the MLflow run over the steps")
    max_parallel: int = Field(1, ge=1, description="steps that may run at the same time")
    steps: dict[str, StepConfig] = Field(min_length=1, description="step name → workflow, config, after")
    evaluations: dict[str, str] = Field({}, description="name in summary.json → step output that holds an evaluation")


def main(config: Pipeline, run: "Run") -> "Result":
    """Run the steps, write ``summary.json``, print the before/after table."""
    from components.orchestration.graph import fill
    from components.orchestration.memory import PeakMemory
    from components.orchestration.schedule import Setting, check_steps, run_steps
    from components.orchestration.summary import print_evaluations, write_summary
    from components.tracking.run import Result

    check_steps(config.steps, schema_of)
    started = time.monotonic()
    storage = Path(config.storage)
    setting = Setting(
        folder=storage / "pipeline" / config.name,
        project=Path(__file__).resolve().parents[1],
        parent_run=run.id,
        storage=config.storage,
        experiment=config.experiment,
        seed=config.seed,
        ray=config.ray.model_copy(update={"address": config.ray.address or os.environ.get("RAY_ADDRESS")}),
        max_parallel=config.max_parallel,
        schema_of=schema_of,
    )
    with PeakMemory() as memory:
        steps = run_steps(config.steps, setting)
    failed = {name: step for name, step in steps.items() if step.status == "failed"}
    offers = {name: step.outputs for name, step in steps.items()}
    complete = {} if failed else fill(config.evaluations, offers)
    summary = write_summary(storage, steps, complete, time.monotonic() - started, memory.peak_bytes)
    run.log_artifact(summary)
    print_evaluations(complete)
    if failed:
        errors = "; ".join(f"step {name}: {step.error}" for name, step in failed.items())
        raise (UserError if all(step.is_users_error for step in failed.values()) else RuntimeError)(errors)
    outputs: dict[str, Any] = {"summary": str(summary)}
    outputs |= {key: value for step in steps.values() for key, value in step.outputs.items() if key == "report"}
    cached = sum(step.status == "cached" for step in steps.values())
    return Result(outputs, {"steps": len(steps), "steps_cached": cached, "seconds": time.monotonic() - started})


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
    """Return the steps in the order in which they run, and what each waits for; wrong steps are refused."""
    from components.orchestration.graph import order
    from components.orchestration.schedule import check_steps

    check_steps(config.steps, schema_of)
    waits = order(config.steps)
    return {
        name: f"{config.steps[name].workflow} after {sorted(wanted) or 'nothing'}" for name, wanted in waits.items()
    }


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(Pipeline, main, identity=lambda config: config.name)
