"""The doctor by its command line and as a pipeline's step, over tables that are good and one that is not."""

import json
import os
import shutil

import pytest

from components.data import store
from components.data.schemas import PREFERENCE
from tests.workflows import warm
from tests.workflows.toy import pipeline_of, run_apart, write_tables

STEP = """
name: toy
steps:
  look:
    workflow: doctor
    config: {workflow: train_sft, config: {model: MODEL, demonstrations: TABLE}}
  then:
    workflow: report
    after: [look]
    config: {title: Then, path: then.html, runs: {look: <look.run_id>}}
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory, mlflow_database):
    folder = tmp_path_factory.mktemp("doctor") / "artifacts"
    folder.mkdir()
    shutil.copy(mlflow_database, folder)
    write_tables(folder, train=30, test=10)
    answer = [{"role": "assistant", "content": "four"}]
    pair = {"pair_id": "p", "chosen": answer, "rejected": answer, "chosen_score": 1.0, "rejected_score": 0.0}
    prompt = {"prompt_id": "q", "prompt": [{"role": "user", "content": "2 + 2?"}], "split": "train"}
    pairs = [{**prompt, **pair, "kind": "what", "source": "t"}]
    store.write(str(folder / "lancedb"), "ties", pairs, schema=PREFERENCE, key="pair_id")
    return folder


def test_a_good_table_is_exit_0_with_a_line_for_each_finding(storage, tiny_model_dir, tmp_storage):
    """The file's own storage gives way to the doctor's, as a pipeline's steps' does."""
    file = tmp_storage / "own.yaml"
    file.write_text(f"storage: nowhere\nmodel: {tiny_model_dir}\npreferences: ${{storage}}/lancedb#preferences\n")
    for _ in range(2):  # a finished one does not stand for the next: the machine may have changed
        code, line, log = warm.ask("doctor", "train_dpo", f"storage={storage}", f"file={file}")
        assert code == 0, log[-3000:]
        assert line["metrics"]["doctor/problem"] == 0
        assert line["outputs"]["findings"] == sum(line["metrics"].values()) > 15
        assert "preferences: splits" in log and "30 rows to train on, 10 held out" in log and "memory" in log


@pytest.mark.exhaustive
def test_as_a_pipelines_step_it_lets_what_waits_for_it_go_on(tiny_model_dir, storage, tmp_path):
    near = [os.path.relpath(path) for path in (tiny_model_dir, f"{storage}/lancedb")]  # as a person may write them
    yaml = STEP.replace("MODEL", near[0]).replace("TABLE", f"{near[1]}#demonstrations")
    done = run_apart(pipeline_of(yaml, tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    summary = json.loads((tmp_path / "storage" / "summary.json").read_text())
    assert {name: step["status"] for name, step in summary["steps"].items()} == {"look": "done", "then": "done"}
    assert summary["steps"]["look"]["run_id"]


def test_a_table_that_would_waste_a_training_is_exit_2_with_what_to_change(storage, tiny_model_dir, tmp_storage):
    keys = [f"config.model={tiny_model_dir}", f"config.preferences={storage}/lancedb#ties", "config.max_tokens=8"]
    code, line, log = warm.ask("doctor", "train_dpo", f"storage={tmp_storage}", *keys)
    assert code == 2 and line["status"] == "invalid" and "Traceback" not in log
    assert line["outputs"]["error"].startswith("2 problem(s) before train_dpo can start; preferences: length: ")
    assert "preferences: ties: 1 of 1 pairs" in line["outputs"]["error"]
    (found,) = tmp_storage.glob("**/findings.json")
    states = {one["check"]: one["state"] for one in json.loads(found.read_text())}
    assert states["preferences: ties"] == "problem" and states["preferences: splits"] == "look"


def test_what_it_cannot_look_over_and_what_is_mistyped_is_told(storage, tiny_model_dir):
    code, line, _ = warm.ask("doctor", "build_index", f"storage={storage}")
    assert code == 2 and "got workflow=build_index" in line["outputs"]["error"]
    model, table = f"config.model={tiny_model_dir}", f"config.preferences={storage}/lancedb#preferences"
    code, line, _ = warm.ask(
        "doctor", "train_dpo", f"storage={storage}", model, table, "config.optim.epoch=2", "--plan"
    )
    assert code == 2
    assert line["outputs"]["error"] == "unknown key 'config.optim.epoch': did you mean 'epochs'?"
