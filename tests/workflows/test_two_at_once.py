"""Two pipelines at once on one cluster and in one storage: what both want is made once, and nobody's rows get lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from components.data import store
from components.orchestration.cluster import ClusterSize, local_cluster

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("left", "right")
YAML = """
name: NAME
steps:
  shared:
    workflow: build_preferences
    config: &config
      file: FOLDER/shared.jsonl
      file_test_share: 0.2
      clean: {duplicates: {near: false}, decontaminate: {near: false, test_split: false}}
  own:
    workflow: build_preferences
    config: {<<: *config, file: FOLDER/NAME.jsonl}
"""


def _file(folder: Path, name: str) -> set[str]:
    """Write fifty pairs of one source, and return their prompts."""
    rows = [{"prompt": f"{name} {n}?", "chosen": f"Yes, {n}.", "rejected": "No."} for n in range(50)]
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {row["prompt"] for row in rows}


@pytest.mark.exhaustive
def test_neither_disturbs_the_other(tmp_path: Path, tmp_storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = {name: _file(tmp_path, name) for name in ("shared", *NAMES)}
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):  # the cluster sets them: they are to be gone afterwards
        monkeypatch.setenv(name, os.environ.get(name, ""))
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    running = {}
    with local_cluster(ClusterSize(num_cpus=2)) as found:
        for name in NAMES:
            yaml = tmp_path / f"{name}.yaml"
            yaml.write_text(YAML.replace("NAME", name).replace("FOLDER", str(tmp_path)))
            command = [sys.executable, "-m", "workflows.pipeline", str(yaml), f"ray.address={found.dashboard}"]
            with (tmp_path / f"{name}.log").open("w") as log:
                running[name] = subprocess.Popen(
                    [*command, f"storage={tmp_storage}"], cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True
                )
        said = {name: process.communicate(timeout=240)[0] for name, process in running.items()}
    logs = {name: (tmp_path / f"{name}.log").read_text() for name in NAMES}
    for name, process in running.items():
        assert process.returncode == 0, logs[name][-3000:]
    lines = {name: json.loads(text.splitlines()[-1]) for name, text in said.items()}

    steps = {name: json.loads(Path(lines[name]["outputs"]["summary"]).read_text())["steps"] for name in NAMES}
    assert steps["left"]["shared"]["run_id"] == steps["right"]["shared"]["run_id"]
    assert lines["left"]["run_id"] != lines["right"]["run_id"]
    jobs = [tmp_storage / "pipeline" / name / "logs" / "shared.log" for name in NAMES]
    waited = ["waiting for another process that runs the same build_preferences" in job.read_text() for job in jobs]
    assert any(waited), "they did not meet"
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_storage}/mlflow.db")
    tables = set()
    for name in NAMES:
        assert {step["status"] for step in steps[name].values()} <= {"done", "cached"}
        run = client.get_run(steps[name]["own"]["run_id"])
        assert run.data.tags["mlflow.parentRunId"] == lines[name]["run_id"]
        table = json.loads(run.data.tags["raylign.result"])["outputs"]["preferences"]
        assert {row["prompt"][0]["content"] for row in store.read(table)} == prompts[name]
        tables.add(table)
    assert len(tables) == 2  # two versions of one table
