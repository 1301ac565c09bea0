"""What a step's job says of itself, and what the ledger does: which of them decides how the step ended."""

import threading
from pathlib import Path

import pytest

from components.config import RayConfig, WorkflowConfig
from components.orchestration import schedule
from components.orchestration.graph import StepConfig, SweepConfig
from components.orchestration.jobs import JobEnd
from components.orchestration.ledger import step_key
from components.orchestration.progress import Board
from components.orchestration.steps import Setting
from workflows.pipeline import schema_of

_LINE = {"run_id": "r", "status": "done", "outputs": {"findings": 3}, "metrics": {"doctor/fine": 3.0}}
_CONFIGS = {"doctor": {"workflow": "train_sft"}, "report": {"runs": {"made": "r"}}}


@pytest.fixture
def end_of(tmp_storage: Path, monkeypatch):
    """A function that returns how a step of a workflow ends whose job ended so."""

    def run(workflow: str, end: JobEnd):
        monkeypatch.setattr(schedule, "run_job", lambda *_, **__: end)
        shared = {"storage": str(tmp_storage), "experiment": "tests"}
        setting = Setting(tmp_storage, tmp_storage, "parent", shared, 0, RayConfig(), 1, schema_of)
        config = schema_of(workflow)(**_CONFIGS[workflow], **shared)
        step = StepConfig(workflow=workflow)
        return schedule._run("it", step, config, "address", setting, Board(["it"]), threading.Event())

    return run


def test_a_workflow_that_always_runs_is_done_when_its_job_says_so(end_of):
    done = end_of("doctor", JobEnd(True, _LINE, ""))
    assert (done.status, done.run_id, done.outputs, done.metrics) == ("done", "r", {"findings": 3}, _LINE["metrics"])
    invalid = {**_LINE, "status": "invalid", "run_id": None, "outputs": {"error": "2 problem(s)"}}
    failed = end_of("doctor", JobEnd(False, invalid, ""))
    assert failed.status == "failed" and failed.is_users_error and failed.error.startswith("2 problem(s) (log: ")


def test_any_other_is_done_only_when_the_ledger_has_it(end_of):
    failed = end_of("report", JobEnd(True, _LINE, ""))  # its outputs are gone, say
    assert failed.status == "failed" and not failed.is_users_error
    assert "died without a word" in end_of("report", JobEnd(False, None, "")).error


def test_points_are_told_how_many_run_beside_them(tmp_storage: Path, monkeypatch) -> None:
    told = {}

    def run_job(address: str, entrypoint: str, **asked) -> JobEnd:
        told[Path(entrypoint.split()[-1]).stem] = asked["at_once"]
        return JobEnd(False, None, "")

    monkeypatch.setattr(schedule, "run_job", run_job)
    shared = {"storage": str(tmp_storage), "experiment": "tests"}
    setting = Setting(tmp_storage, tmp_storage, "parent", shared, 0, RayConfig(address="there"), 3, schema_of)
    points = [{"title": "One"}, {"title": "Two"}]
    steps = {
        "alone": StepConfig(workflow="report", config=_CONFIGS["report"]),
        "pages": StepConfig(
            workflow="report", config=_CONFIGS["report"], sweep=SweepConfig(points=points, metric="bytes", mode="max")
        ),
    }
    ends = schedule.run_steps(steps, setting)
    assert told == {"alone": 1, "pages-1": 2, "pages-2": 2}
    assert ends["pages"].status == "failed" and ends["pages-1"].sweep == "pages"


def test_what_a_pipeline_waits_for_its_steps_do_under_the_same_keys(tmp_storage: Path) -> None:
    """Each of them is a job of its own, which asks the cluster itself."""
    shared = {"storage": str(tmp_storage), "experiment": "tests"}
    waiting = RayConfig(address="http://there:8265", wait_for={"GPU": 2}, wait_s=1800)

    def configured(ray: RayConfig, config: dict) -> WorkflowConfig:
        setting = Setting(tmp_storage, tmp_storage, "parent", shared, 0, ray, 1, schema_of)
        step = StepConfig(workflow="report", config={**_CONFIGS["report"], **config})
        return schedule._configure("it", step, {}, setting)

    without, with_it = configured(RayConfig(), {}), configured(waiting, {})
    assert with_it.ray == RayConfig(wait_for={"GPU": 2}, wait_s=1800), "the address is for the pipeline only"
    assert step_key("report", with_it) == step_key("report", without)
    assert configured(RayConfig(wait_for={"GPU": 2}), {}).ray == RayConfig(), "a cluster of its own brings no more"
    own = configured(waiting, {"ray": {"wait_for": {"CPU": 8}}})
    assert own.ray == RayConfig(wait_for={"CPU": 8}, wait_s=1800)
    assert configured(waiting, {"ray": {"wait_s": 60}}).ray == RayConfig(wait_for={"GPU": 2}, wait_s=60)
