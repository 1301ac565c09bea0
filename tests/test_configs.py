"""Every YAML that we ship is accepted by its workflow, and every workflow keeps the command-line contract."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.config import RayConfig, load, to_yaml
from components.orchestration.cluster import local_size
from components.orchestration.graph import order
from components.orchestration.loop import unroll
from components.orchestration.schedule import check_steps
from components.training.ppo.sections import Sections
from workflows.pipeline import Pipeline, schema_of

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted(path.stem for path in (ROOT / "workflows").glob("*.py") if path.stem != "__init__")
YAMLS = sorted((ROOT / "workflows" / "configs").glob("*/*.yaml"))


def _command(workflow: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", f"workflows.{workflow}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_shipped_yaml_is_valid_and_round_trips(path: Path, tmp_path: Path) -> None:
    schema = schema_of(path.parent.name)
    config = load(schema, str(path), [])
    again = tmp_path / "again.yaml"
    again.write_text(to_yaml(config))
    assert load(schema, str(again), []) == config
    if isinstance(config, Pipeline):
        steps = unroll(config.steps, config.loops).steps
        check_steps(steps, schema_of)
        assert set(order(steps)) == set(steps)


def test_shipped_ppo_runs_are_long_enough_to_see_a_reward_that_is_gamed() -> None:
    alone = load(schema_of("train_ppo"), str(ROOT / "workflows/configs/train_ppo/demo.yaml"), [])
    step = load(Pipeline, str(ROOT / "workflows/configs/pipeline/demo.yaml"), []).steps["train_ppo"].config
    in_demo = Sections(guards=step["guards"], update=step["update"])
    assert not alone.blind and not in_demo.blind


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_help_is_fast_and_describes_every_key(workflow: str) -> None:
    seconds = []
    for _ in range(3):  # the first one compiles; a busy machine may slow down another
        started = time.monotonic()
        done = _command(workflow, "--help")
        seconds.append(time.monotonic() - started)
    assert min(seconds) < 2.0
    assert done.returncode == 0
    for name, field in schema_of(workflow).model_fields.items():
        assert f"  {name}" in done.stdout
        assert field.description, f"{workflow}.{name} has no description"


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_an_unknown_key_is_one_sentence_and_exit_2(workflow: str, tmp_path: Path) -> None:
    done = _command(workflow, f"storage={tmp_path}", "stroage=x")
    assert done.returncode == 2
    assert "unknown key 'stroage': did you mean 'storage'?" in done.stderr
    assert "Traceback" not in done.stderr
    line = json.loads(done.stdout.splitlines()[-1])
    assert (line["workflow"], line["status"]) == (workflow, "invalid")
    assert set(line) == {"workflow", "run_id", "status", "outputs", "metrics"}


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_a_missing_file_is_exit_2(workflow: str) -> None:
    done = _command(workflow, "nowhere.yaml")
    assert done.returncode == 2
    assert "nowhere.yaml does not exist" in done.stderr


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_plan_starts_nothing(path: Path, tmp_path: Path) -> None:
    storage = tmp_path / "storage"
    done = _command(path.parent.name, str(path), f"storage={storage}", "--plan")
    if done.returncode == 2:  # an input that only the reader has, or that an earlier step makes
        assert "does not exist" in done.stderr or "required" in done.stderr
    else:
        assert done.returncode == 0, done.stderr
        assert "step key" in done.stdout and "# resources" in done.stdout
    assert not storage.exists()


def test_a_local_clusters_size_is_valid() -> None:
    path = ROOT / "clusters" / "laptop.yaml"
    assert local_size(RayConfig(size=str(path))).object_store_gib
    assert local_size(RayConfig(size=str(path), num_cpus=3)).num_cpus == 3
