"""What a step's job says of itself, and what the ledger does: which of them decides how the step ended."""

import hashlib
import shlex
import threading
import time
from pathlib import Path

import pytest

from components.config import RayConfig, WorkflowConfig, load
from components.orchestration import schedule
from components.orchestration.graph import StepConfig, SweepConfig
from components.orchestration.jobs import JobEnd
from components.orchestration.ledger import step_key
from components.orchestration.progress import Board
from components.orchestration.steps import Setting
from components.tracking.run import Result, finish_run, open_run
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


def test_a_storage_may_have_a_blank_in_its_path(tmp_storage: Path, monkeypatch) -> None:
    """Ray hands a job's entrypoint to a shell."""
    told = []
    monkeypatch.setattr(schedule, "run_job", lambda _, entry, **__: told.append(entry) or JobEnd(False, None, ""))
    shared, folder = {"storage": str(tmp_storage), "experiment": "tests"}, tmp_storage / "My Drive; x"
    setting = Setting(folder, tmp_storage, "parent", shared, 0, RayConfig(address="there"), 1, schema_of)
    schedule.run_steps({"page": StepConfig(workflow="report", config=_CONFIGS["report"])}, setting)
    words = shlex.split(told[0])
    assert words[:3] == ["python", "-m", "workflows.report"] and words[3:] == [str(folder / "configs" / "page.yaml")]


def test_a_step_that_writes_to_its_own_input_is_known_by_what_it_began_with(tmp_storage: Path, monkeypatch) -> None:
    given = tmp_storage / "transcript.json"
    given.write_text("[]")
    config = schema_of("report")(**_CONFIGS["report"], transcript=str(given), storage=str(tmp_storage))
    key = step_key("report", config)

    def run_job(*_, **__) -> JobEnd:
        with open_run(tmp_storage, config.experiment, "report", key, {}) as run:
            page = tmp_storage / "report.html"
            page.write_text("page")
            digest = hashlib.sha256(b"page").hexdigest()
            finish_run(run, Result({"report": str(page), "sha256": digest}, {"bytes": 4.0}), 1.0)
        given.write_text("[1]")
        return JobEnd(True, {**_LINE, "run_id": run.id}, "")

    monkeypatch.setattr(schedule, "run_job", run_job)
    setting = Setting(tmp_storage, tmp_storage, "parent", {}, 0, RayConfig(), 1, schema_of)
    ask = ("it", StepConfig(workflow="report"), config, "address", setting, Board(["it"]), threading.Event())
    assert schedule._run(*ask).status == "done"


def test_a_step_that_waits_for_a_free_slot_is_looked_at_again_only_when_it_has_one(
    tmp_storage: Path, monkeypatch
) -> None:
    looked = []

    def run_job(*_, **__) -> JobEnd:
        time.sleep(2.5)  # some turns of the loop
        return JobEnd(False, None, "")

    def recognise(name: str, *rest, **more):
        looked.append(name)
        return original(name, *rest, **more)

    original = schedule._recognise
    monkeypatch.setattr(schedule, "run_job", run_job)
    monkeypatch.setattr(schedule, "_recognise", recognise)
    shared = {"storage": str(tmp_storage), "experiment": "tests"}
    setting = Setting(tmp_storage, tmp_storage, "parent", shared, 0, RayConfig(address="there"), 1, schema_of)
    steps = {name: StepConfig(workflow="report", config=_CONFIGS["report"]) for name in ("first", "second")}
    schedule.run_steps(steps, setting)
    assert looked == ["first", "second", "second"]


def test_only_the_last_of_those_that_write_one_page_has_to_have_it(tmp_storage: Path, monkeypatch) -> None:
    """Rounds of a loop, say: done, the page is the last one's; overwritten by another pipeline, that alone runs."""
    ran = []

    def run_job(_, entry: str, **__) -> JobEnd:
        config = load(schema_of("report"), shlex.split(entry)[-1], [])
        ran.append(config.title)
        with open_run(tmp_storage, config.experiment, "report", step_key("report", config), {}) as run:
            page = tmp_storage / config.path
            page.write_text(config.title)
            digest = hashlib.sha256(page.read_bytes()).hexdigest()
            finish_run(run, Result({"report": str(page), "sha256": digest}, {"bytes": 4.0}), 1.0)
        return JobEnd(True, {**_LINE, "run_id": run.id}, "")

    monkeypatch.setattr(schedule, "run_job", run_job)
    shared = {"storage": str(tmp_storage), "experiment": "pages"}
    setting = Setting(tmp_storage, tmp_storage, "parent", shared, 0, RayConfig(address="there"), 1, schema_of)
    steps = {
        "second": StepConfig(workflow="report", config={**_CONFIGS["report"], "title": "B"}, after=["first"]),
        "first": StepConfig(workflow="report", config={**_CONFIGS["report"], "title": "A"}),
    }

    def statuses() -> dict[str, str]:
        return {name: step.status for name, step in schedule.run_steps(steps, setting).items()}

    assert statuses() == {"first": "done", "second": "done"} and ran == ["A", "B"]
    assert statuses() == {"first": "cached", "second": "cached"}
    (tmp_storage / "report.html").write_text("another pipeline's")
    assert statuses() == {"first": "cached", "second": "done"} and ran == ["A", "B", "B"]
