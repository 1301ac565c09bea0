"""Look over a training before it costs anything: its model, its rows as tokens, what they say, this machine."""

import hashlib
import importlib
import json
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import field_validator

from components.config import Field, UserError, WorkflowConfig, leaves, parse, read_raw
from components.storage import normal, resolved
from workflows import pipeline

if TYPE_CHECKING:
    from components.tracking.run import Result, Run
    from components.training.doctor.findings import Finding

_TRAININGS = ("train_sft", "train_dpo", "train_reward", "train_ppo")


class Doctor(WorkflowConfig):
    """What doctor reads from its YAML, and the configuration of the training that it looks over."""

    keyed: ClassVar[bool] = False  # the machine changes, too

    workflow: str = Field(description="train_sft, train_dpo, train_reward or train_ppo")
    file: str | None = Field(None, description="YAML file of the training; in a job, of the uploaded project")
    config: dict[str, Any] = Field({}, description="its keys, over those of the file, as config.optim.epochs=2")
    rows: int = Field(2000, ge=1, description="training rows of each table that are tokenized, drawn by the seed")

    @field_validator("config")
    @classmethod
    def _paths_hold_in_a_job(cls, values: dict[str, Any]) -> dict[str, Any]:
        """A job runs in another folder: what is there already gets its whole path, as a training's own keys do."""
        return {key: _resolved(value) for key, value in leaves(values).items()}


def _resolved(value: Any) -> Any:
    if isinstance(value, list):
        return [_resolved(item) for item in value]
    return resolved(value) if isinstance(value, str) and "/" in value else value


def main(config: Doctor, run: "Run") -> "Result":
    """Print what is found, and return ``{"findings"}``.

    Raises:
        UserError: something has to be changed first.
    """
    from dataclasses import asdict

    from components.orchestration.entry import prepared
    from components.tracking.run import Result
    from components.training.doctor.examine import examine
    from components.training.doctor.findings import State, show

    plan(config)
    found: list[Finding] = []
    try:
        for finding in examine(prepared(training_of(config)), rows=config.rows):
            found.append(finding)
    finally:
        show(found)
        run.log_text(json.dumps([asdict(finding) for finding in found], indent=2), "findings.json")
    counts = {f"doctor/{state}": float(sum(one.state is state for one in found)) for state in State}
    run.log_metrics(counts)
    problems = [f"{one.check}: {one.text}" for one in found if one.state is State.PROBLEM]
    if problems:
        raise UserError(f"{len(problems)} problem(s) before {config.workflow} can start; {'; '.join(problems)}")
    return Result({"findings": len(found)}, counts)


def training_of(config: Doctor) -> WorkflowConfig:
    """Return the configuration of the training: what the doctor is given of what all workflows have is its, too.

    Raises:
        UserError: the workflow is no training, or the configuration is not one of it.
    """
    if config.workflow not in _TRAININGS:
        raise UserError(f"doctor looks over {', '.join(_TRAININGS)}; got workflow={config.workflow}")
    plain = WorkflowConfig(storage=normal(WorkflowConfig().storage)).model_dump()
    given = config.model_dump(include=set(plain))
    keys = leaves({name: value for name, value in given.items() if value != plain[name]}) | config.config
    values = read_raw(config.file, [f"{key}={json.dumps(value)}" for key, value in keys.items()])
    return parse(pipeline.schema_of(config.workflow), values, "config.")


def plan(config: Doctor) -> dict[str, Any]:
    """Return what the training's own plan says of its configuration."""
    training = training_of(config)
    return importlib.import_module(f"workflows.{config.workflow}").plan(training)


def identity(config: Doctor) -> str:
    """Return the name of the run: one for each configuration that is looked over."""
    what = json.dumps([config.file, config.config], sort_keys=True)
    return f"doctor-{config.workflow}-{hashlib.sha256(what.encode()).hexdigest()[:8]}"


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(Doctor, main, identity=identity, leading="workflow")
