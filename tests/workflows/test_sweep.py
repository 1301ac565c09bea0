"""A sweep as a person runs it: points as jobs on a real cluster, one that fails, the best handed on, MLflow's view."""

import json
from pathlib import Path

import pytest

from tests.workflows.toy import pipeline_of, run_apart

ROOT = Path(__file__).resolve().parents[2]
# A page's bytes grow with its title, so the sweep's best is known: the longest of the titles that work.
YAML = """
name: toy
max_parallel: 2
steps:
  after:
    workflow: report
    config:
      title: After
      path: after.html
      runs: {best: <pages.run_id>}
      sweeps: {Titles: <pages.sweep>}
  pages:
    workflow: report
    config: {runs: {made: RUN_ID}}
    sweep:
      points:
        - {title: Short, path: short.html}
        - {title: A title that is much longer, path: long.html}
        - {title: This one is the longest of all but it names a run that nobody made, path: no.html, runs.made: RUNLESS}
      metric: bytes
      mode: max
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> list[str]:
    return pipeline_of(YAML, tmp_path)


def _summary(tmp_path: Path) -> dict[str, dict]:
    return json.loads((tmp_path / "storage" / "summary.json").read_text())["steps"]


def test_a_failed_point_is_reported_and_the_best_of_the_others_goes_on(pipeline: list[str], tmp_path: Path) -> None:
    from mlflow import MlflowClient

    done = run_apart(pipeline)
    assert done.returncode == 0, done.stderr
    steps = _summary(tmp_path)
    ends = {name: step["status"] for name, step in steps.items()}
    assert ends == {"pages-1": "done", "pages-2": "done", "pages-3": "failed", "pages": "done", "after": "done"}
    assert "point pages-3" in done.stderr and "there is no MLflow run RUNLESS" in done.stderr
    assert steps["pages"]["run_id"] == steps["pages-2"]["run_id"] != steps["pages-1"]["run_id"]

    client = MlflowClient(f"sqlite:///{tmp_path}/storage/mlflow.db")
    experiment = client.get_experiment_by_name("raylign")
    (sweep,) = client.search_runs([experiment.experiment_id], "tags.`raylign.workflow` = 'sweep'")
    assert sweep.info.status == "FINISHED"
    short, long = (len((tmp_path / "storage" / name).read_bytes()) for name in ("short.html", "long.html"))
    assert long > short
    history = client.get_metric_history(sweep.info.run_id, "points/bytes")
    assert [(point.step, point.value) for point in history] == [(1, short), (2, long)]
    assert sweep.data.metrics["best/bytes"] == long and sweep.data.metrics["points_without_value"] == 1
    assert sweep.data.params["best"] == "pages-2" and sweep.data.params["best.title"] == "A title that is much longer"
    files = {found.path for found in client.list_artifacts(sweep.info.run_id)}
    assert files == {"comparison.json", "comparison.png", "comparison_table.json"}
    children = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{sweep.info.run_id}'")
    assert {child.info.run_id for child in children} == {steps[f"pages-{number}"]["run_id"] for number in (1, 2)}
    (parent,) = client.search_runs([experiment.experiment_id], "tags.`raylign.workflow` = 'pipeline'")
    assert sweep.data.tags["mlflow.parentRunId"] == parent.info.run_id

    page = (tmp_path / "storage" / "after.html").read_text()
    assert "A title that is much longer" in page and "RUNLESS" in page and page.count("<svg") == 1

    again = run_apart(pipeline)
    assert again.returncode == 0, again.stderr
    ends = {name: step["status"] for name, step in _summary(tmp_path).items()}
    assert ends == {"pages-1": "cached", "pages-2": "cached", "pages-3": "failed", "pages": "cached", "after": "cached"}


@pytest.mark.exhaustive
def test_a_sweep_that_may_not_lose_a_point_fails_and_blocks_what_follows(pipeline: list[str], tmp_path: Path) -> None:
    done = run_apart([*pipeline, "steps.pages.sweep.on_failure=fail"])
    assert done.returncode == 2  # the run that is not there is the user's fault
    assert "step pages: point pages-3" in done.stderr
    ends = {name: step["status"] for name, step in _summary(tmp_path).items()}
    assert ends == {"pages-1": "done", "pages-2": "done", "pages-3": "failed", "pages": "failed", "after": "blocked"}


def test_an_unknown_metric_names_those_that_there_are(pipeline: list[str]) -> None:
    one = "steps.pages.sweep.points=[{title: Short, path: short.html}]"
    done = run_apart([*pipeline, one, "steps.pages.sweep.metric=loss"])
    assert done.returncode == 2
    assert "has no metric 'loss': it has bytes" in done.stderr


def test_the_plan_shows_the_points(pipeline: list[str], tmp_path: Path) -> None:
    done = run_apart([*pipeline, "--plan", "steps.pages.sweep.grid.title=[One,Two]", "steps.pages.sweep.points=[]"])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "pages-1: after nothing; point of a sweep: title=One" in lines
    assert "pages-2: after nothing; point of a sweep: title=Two" in lines
    assert "pages: the best of 2 points, with the max of bytes" in lines
    assert "after: after pages" in lines


def test_a_wrong_key_of_a_point_is_refused_before_anything_starts(pipeline: list[str], tmp_path: Path) -> None:
    done = run_apart([*pipeline, "steps.pages.sweep.grid.titel=[One,Two]"])
    assert done.returncode == 2
    assert "unknown key 'steps.pages-1.config.titel': did you mean 'title'?" in done.stderr
    assert not (tmp_path / "storage" / "summary.json").exists()
