"""The doctor by its command line: over each training, and over tables that would waste one."""

import json
import shutil

import pytest

from components.data import store
from components.data.schemas import PREFERENCE, QUESTION, STEPS
from tests.workflows import warm
from tests.workflows.toy import write_tables


@pytest.fixture(scope="module")
def storage(tmp_path_factory, mlflow_database):
    folder = tmp_path_factory.mktemp("doctor") / "artifacts"
    folder.mkdir()
    shutil.copy(mlflow_database, folder)
    write_tables(folder, train=30, test=10)
    uri, message = str(folder / "lancedb"), {"role": "user", "content": "What is 2 + 2?"}
    common = {"prompt_id": "q", "prompt": [message], "split": "train"}
    steps = {"step_id": "s", "steps": [{"text": "2 + 2 = 4", "label": 1.0}], "outcome": True}
    store.write(uri, "steps", [{**common, **steps, "kind": "sampled", "source": "t"}], schema=STEPS, key="step_id")
    question = {"question": "2 + 2?", "kind": "what", "answerable": False, "passages": [], "target": 0}
    store.write(uri, "questions", [{**common, **question, "reference": "4"}], schema=QUESTION, key="prompt_id")
    answer = [{"role": "assistant", "content": "four"}]
    pair = {"pair_id": "p", "chosen": answer, "rejected": answer, "chosen_score": 1.0, "rejected_score": 0.0}
    store.write(uri, "ties", [{**common, **pair, "kind": "what", "source": "t"}], schema=PREFERENCE, key="pair_id")
    return folder


TRAININGS = {
    "train_sft": ["demonstrations"],
    "train_dpo": ["preferences"],
    "train_reward": ["steps", "preferences"],
    "train_ppo": ["prompts=questions"],
}


@pytest.mark.parametrize("training", TRAININGS)
def test_each_training_is_looked_over(training, storage, tiny_model_dir):
    tables = [name.partition("=") for name in TRAININGS[training]]
    keys = [f"config.{key}={storage}/lancedb#{table or key}" for key, _, table in tables]
    code, line, log = warm.ask("doctor", training, f"storage={storage}", f"config.model={tiny_model_dir}", *keys)
    assert code == 0, log[-3000:]
    figures = line["metrics"]
    assert figures["doctor/problem"] == 0 and figures["doctor/fine"] >= 9
    assert line["outputs"]["findings"] == sum(figures.values())
    for key, _, _ in tables:
        assert f"{key}: splits" in log and f"{key}: length" in log
    assert ("memory" in log) == (training != "train_ppo")


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
    code, line, _ = warm.ask("doctor", "train_dpo", f"storage={storage}", model, table, "config.optim.epoch=2")
    assert code == 2
    assert line["outputs"]["error"] == "unknown key 'config.optim.epoch': did you mean 'epochs'?"
