"""A pipeline as a person runs it: a real cluster, real jobs, cached steps, changed steps, a hard kill."""

import json
import subprocess
import time
from pathlib import Path

import pytest

from tests.workflows.toy import clusterless, kill_hard, pipeline_of, run_apart

ROOT = Path(__file__).resolve().parents[2]
YAML = """
name: toy
steps:
  second:
    workflow: report
    config: {title: Second, path: second.html, runs: {first: <first.run_id>}}
  first:
    workflow: report
    config: {title: First, path: first.html, runs: {made: RUN_ID}}
"""


@pytest.fixture
def pipeline(tmp_path: Path) -> list[str]:
    """The command line of a pipeline of two report steps."""
    return pipeline_of(YAML, tmp_path)


def _run(command: list[str]) -> tuple[dict, dict]:
    done = run_apart(command)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    summary = json.loads(Path(line["outputs"]["summary"]).read_text())
    return line, {name: step["status"] for name, step in summary["steps"].items()}


def test_a_hard_kill_takes_the_cluster_along_and_only_what_is_not_done_runs_again(pipeline: list[str]) -> None:
    log = _kill_in_the_second_step(pipeline)
    assert "first: done in" in log

    line, statuses = _run(pipeline)
    assert statuses["first"] == "cached" and statuses["second"] in ("done", "cached")
    assert Path(line["outputs"]["report"]).name == "second.html"

    started = time.monotonic()
    again, statuses = _run(pipeline)
    assert statuses == {"first": "cached", "second": "cached"}
    assert time.monotonic() - started < 30
    assert again["run_id"] == line["run_id"]

    _, statuses = _run([*pipeline, "steps.second.config.title=Changed"])
    assert statuses == {"first": "cached", "second": "done"}
    _, statuses = _run([*pipeline, "steps.first.config.title=Changed"])
    assert statuses == {"first": "done", "second": "done"}


def _kill_in_the_second_step(pipeline: list[str]) -> str:
    """Return what the pipeline logged until it was killed; nothing that it started is left."""
    process = subprocess.Popen(
        pipeline, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=clusterless()
    )
    assert process.stderr is not None
    log = ""
    for line in process.stderr:
        log += line
        if "second: running" in line:
            break
    kill_hard(process)
    process.stderr.close()
    return log


def test_a_wrong_step_is_refused_before_anything_starts(pipeline: list[str], tmp_path: Path) -> None:
    done = subprocess.run(
        [*pipeline, "steps.second.config.titel=x"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "unknown key 'steps.second.config.titel': did you mean 'title'?" in done.stderr
    assert not (tmp_path / "storage" / "summary.json").exists()
