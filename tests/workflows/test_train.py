"""Training by its command line: demonstrations to a model, pairs to an aligned one, a hard kill in the middle of it."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from components.data import store
from components.data.records import PREFERENCE
from tests.workflows import warm
from tests.workflows.toy import clusterless, write_tables

ROOT = Path(__file__).resolve().parents[2]
HELD_OUT = ("accuracy", "kl", "length", "finished")
SMALL = ["optim.dtype=float32", "optim.micro_batch_size=2", "eval_rows=8", "ray.num_cpus=2", "save.every=2"]


@pytest.fixture(scope="module")
def storage(tmp_path_factory, mlflow_database) -> Path:
    folder = tmp_path_factory.mktemp("training") / "artifacts"
    folder.mkdir()
    shutil.copy(mlflow_database, folder)
    write_tables(folder, train=30, test=10)
    return folder


def test_from_demonstrations_to_an_aligned_model_through_a_hard_kill(storage, cluster, tiny_model_dir, tmp_path):
    place = [f"storage={storage}"]
    sft = [*place, f"model={tiny_model_dir}", f"demonstrations={storage}/lancedb#demonstrations", *SMALL]
    code, trained, log = warm.ask("train_sft", *sft, "optim.learning_rate=5e-3", cluster=cluster)
    assert code == 0, log[-3000:]
    assert trained["metrics"]["steps"] == 4 and trained["metrics"]["eval/loss"] < 5.9  # ln 384 = 5.95
    adapter = Path(trained["outputs"]["adapter"])
    assert sorted(found.name for found in adapter.parent.iterdir()) == ["adapter"]  # nothing half-written stays

    merge = [*place, f"adapter={adapter}", f"base={trained['outputs']['base']}", "dtype=float32"]
    code, merged, log = warm.ask("merge_adapter", *merge)
    assert code == 0 and merged["metrics"]["merge/parity"] < 1e-3, log[-3000:]

    model = merged["outputs"]["model"]
    dpo = [
        *place,
        f"model={model}",
        f"preferences={storage}/lancedb#preferences",
        *SMALL,
        "optim.epochs=8",
        "save.every=5",
    ]
    errors = tmp_path / "log"
    with errors.open("w") as written:  # its own cluster dies with it
        command = [sys.executable, "-m", "workflows.train_dpo", *dpo]
        killed = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=written, env=clusterless())
    wait_for(storage / "train_dpo", "*/checkpoints/checkpoint-*/complete.json", killed, errors)
    killed.kill()
    killed.wait(10)
    code, aligned, log = warm.ask("train_dpo", *dpo, cluster=cluster)
    assert code == 0, log[-3000:]
    assert "going on from" in log
    assert aligned["metrics"]["rows/scored"] == 0  # they were kept
    history = MlflowClient(f"sqlite:///{storage}/mlflow.db").get_metric_history(aligned["run_id"], "train/loss")
    losses = {point.step: point.value for point in sorted(history, key=lambda point: point.timestamp)}
    assert len(losses) == 30  # of both processes
    assert aligned["metrics"]["train/mean_loss"] == pytest.approx(sum(losses.values()) / 30, rel=1e-3)
    assert aligned["metrics"]["steps"] == 30 and aligned["metrics"]["eval/rewards/accuracies"] == 1.0
    assert aligned["metrics"]["heldout/reward_accuracy/after"] == 1.0 and aligned["metrics"]["heldout/kl/after"] > 0
    assert {f"heldout/{name}/{when}" for name in HELD_OUT for when in ("before", "after")} <= set(aligned["metrics"])
    assert store.count(f"{storage}/lancedb#reference_logprobs") == 30 + 8

    scored = [*place, f"model={model}", f"preferences={storage}/lancedb#preferences", "dtype=float32"]
    code, reference, log = warm.ask("score_reference", *scored, cluster=cluster)
    assert code == 0 and reference["metrics"]["computed"] == 0
    assert reference["metrics"]["pairs"] == 30, log[-3000:]

    wrong = [*place, f"adapter={aligned['outputs']['adapter']}", f"base={tiny_model_dir}"]
    code, _, log = warm.ask("merge_adapter", *wrong)
    assert code == 2 and "trained on a model with digest" in log


@pytest.mark.exhaustive
def test_labelled_answers_align_a_model_without_pairs(cluster, tiny_model_dir, tmp_path):
    lines = tmp_path / "labels.jsonl"
    answers = {True: "It joins path names [1].", False: "I don't know."}
    rows = [
        {"prompt": f"Which function joins {number} path names?", "completion": answers[label], "label": label}
        for number in range(40)
        for label in (number % 2 == 0, number % 3 == 0)
    ]
    lines.write_text("\n".join(json.dumps(row) for row in rows))
    place = f"storage={tmp_path}"
    code, built, log = warm.ask("build_labels", place, f"file={lines}", "test_share=0.3")
    assert code == 0 and built["metrics"]["answers/test"] > 8, log[-3000:]
    card = Path(built["outputs"]["card"])
    assert "Answers with labels" in card.read_text()
    assert json.loads(card.with_suffix(".json").read_text())["table"] == built["outputs"]["answers"]

    table = built["outputs"]["answers"]
    kto = [place, f"model={tiny_model_dir}", f"preferences={table}", *SMALL, "optim.epochs=4", "measure.prompts=3"]
    code, trained, log = warm.ask("train_dpo", *kto, "loss.name=kto", "optim.learning_rate=5e-3", cluster=cluster)
    assert code == 0, log[-3000:]
    metrics = trained["metrics"]
    assert metrics["heldout/reward_accuracy/after"] > 0.9 and metrics["heldout/kl/after"] > 0
    assert {f"heldout/{name}/{when}" for name in HELD_OUT for when in ("before", "after")} <= set(metrics)

    code, _, log = warm.ask("train_dpo", *kto, "loss.name=ipo", cluster=cluster)
    assert code == 2 and "set loss.name=kto" in log


def wait_for(folder: Path, pattern: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 200
    while not any(folder.glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"demonstrations": "{storage}/lancedb#nothing"}, "no table 'nothing'"),
        ({"demonstrations": "{storage}/nowhere#demonstrations"}, "no table 'demonstrations'"),
        ({"model": "/no/such/model"}, "no model at /no/such/model"),
        ({"max_tokens": "8"}, "raise max_tokens"),
        ({"optim.micro_batch_size": "3"}, "not a multiple"),
        ({"adapter.name": "lorra"}, "adapter.name"),
        ({"adapter.name": "qlora", "deepspeed.stage": "3"}, "which ZeRO-3 cannot take apart"),
        ({"adapter.name": "adalora", "optim.epochs": "0.5"}, "no step to shrink at in a run of 2"),
        ({"adapter.adalora.every": "2"}, "set adapter.name=adalora"),
        ({"optim.learning_rat": "1"}, "did you mean 'learning_rate'"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_2(storage, tiny_model_dir, change, says):
    values = {"model": str(tiny_model_dir), "demonstrations": "{storage}/lancedb#demonstrations", **change}
    arguments = [f"{key}={value.format(storage=storage)}" for key, value in values.items()]
    code, _, log = warm.ask("train_sft", f"storage={storage}", "ray.num_cpus=1", *arguments)
    assert code == 2 and says in log and "Traceback" not in log


def test_empty_training_split_is_the_users_to_know(storage, tiny_model_dir):
    rows = store.read(f"{storage}/lancedb#preferences", where="split = 'test'")
    store.write(str(storage / "lancedb"), "only_test", rows, schema=PREFERENCE, key="pair_id")
    arguments = [f"model={tiny_model_dir}", f"preferences={storage}/lancedb#only_test"]
    code, _, log = warm.ask("train_dpo", f"storage={storage}", *arguments)
    assert code == 2 and "has no rows" in log
