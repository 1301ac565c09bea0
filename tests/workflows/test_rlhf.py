"""A reward model and PPO by their command lines, through a hard kill in the middle of it."""

import json
import math
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from components.data import store
from components.data.records import PREFERENCE
from components.tracking.history import read_curves
from tests.workflows import warm
from tests.workflows.toy import clusterless

ROOT = Path(__file__).resolve().parents[2]
REWARD = [
    "optim.dtype=float32",
    "optim.micro_batch_size=2",
    "eval_rows=10",
    "ray.num_cpus=2",
    "optim.learning_rate=5e-3",
]
PPO = [
    "optim.dtype=float32",
    "ray.num_cpus=2",
    "rollout.prompts=4",
    "rollout.samples=2",
    "rollout.max_new_tokens=8",
    "rollout.engine.max_model_len=256",
    "max_prompt_tokens=128",
    "kl.target=0.1",
    "kl.horizon=20",
    "update.minibatches=2",
    "eval_rows=4",
    "save.every=1",
    "guards.eval_every=2",
]


def start(workflow: str, *arguments: str, log: Path) -> subprocess.Popen:
    """Start a workflow with a cluster of its own, to be killed in."""
    command = [sys.executable, "-m", f"workflows.{workflow}", *arguments]
    with log.open("w") as errors:
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True, env=clusterless())


def finish(process: subprocess.Popen) -> dict:
    out, _ = process.communicate(timeout=300)
    return {"code": process.returncode, **json.loads(out.strip().splitlines()[-1])}


@pytest.fixture(scope="module")
def storage(tmp_path_factory, mlflow_database) -> Path:
    """Forty pairs in which the answer that names a file wins; ten are held out."""
    folder = tmp_path_factory.mktemp("rlhf") / "artifacts"
    folder.mkdir()
    shutil.copy(mlflow_database, folder)
    pairs = []
    for number in range(40):
        common = {
            "prompt_id": f"q{number}",
            "prompt": [{"role": "user", "content": f"Which function reads file {number}?"}],
            "kind": "what",
            "split": "train" if number < 30 else "test",
            "source": "test",
        }
        chosen = [{"role": "assistant", "content": "It reads and writes files."}]
        rejected = [{"role": "assistant", "content": "It is the absolute path."}]
        scores = {"chosen_score": 1.0, "rejected_score": 0.0}
        pairs.append({**common, **scores, "pair_id": f"p{number}", "chosen": chosen, "rejected": rejected})
    store.write(str(folder / "lancedb"), "preferences", pairs, schema=PREFERENCE, key="pair_id")
    return folder


@pytest.fixture(scope="module")
def rewarded(storage, cluster, tiny_model_dir) -> dict:
    arguments = [f"storage={storage}", f"model={tiny_model_dir}", f"preferences={storage}/lancedb#preferences"]
    wanted = [*REWARD, "optim.epochs=6", "loss.heads=2"]
    code, ended, log = warm.ask("train_reward", *arguments, *wanted, cluster=cluster)
    assert code == 0, log[-3000:]
    return ended


def test_a_reward_model_with_its_health_card(rewarded) -> None:
    folder, metrics = Path(rewarded["outputs"]["reward"]), rewarded["metrics"]
    assert metrics["card/accuracy"] == 1.0 and metrics["card/heads"] == 2
    assert sorted(found.name for found in folder.parent.iterdir()) == ["health_card.html", "reward"]
    info = json.loads((folder / "reward.json").read_text())
    assert info["kind"] == "outcome" and len(info["std"]) == 2 and all(value > 0 for value in info["std"])
    assert "good enough for PPO" in Path(rewarded["outputs"]["card"]).read_text()


@pytest.fixture(scope="module")
def ppo(storage, rewarded, tiny_model_dir) -> Callable[[Path], list[str]]:
    """Train_ppo's arguments for a run that writes to another folder: what is done there is not done here."""

    def arguments(folder: Path) -> list[str]:
        return [
            f"storage={folder}",
            f"model={tiny_model_dir}",
            f"prompts={storage}/lancedb#preferences",
            f"rewards=[{rewarded['outputs']['reward']}]",
            *PPO,
            "update.iterations=4",
        ]

    return arguments


@pytest.fixture(scope="module")
def undisturbed(ppo, cluster, tmp_path_factory) -> dict[str, dict[int, float]]:
    """The curves of a run that nothing happened to."""
    storage = tmp_path_factory.mktemp("undisturbed") / "artifacts"
    code, ended, log = warm.ask("train_ppo", *ppo(storage), cluster=cluster)
    assert code == 0, log[-3000:]
    return curves(storage, ended)


def curves(storage: Path, ended: dict) -> dict[str, dict[int, float]]:
    """What a run logged in each iteration, but for its times."""
    found = {name: dict(points) for name, points in read_curves(storage, ended["run_id"]).items()}
    told = {name for name in found if name.partition("/")[0] in ("objective", "loss", "policy", "value", "eval")}
    assert len(told) > 15
    return {name: {step: value for step, value in found[name].items() if step} for name in told}


def assert_same_curves(found: dict[str, dict[int, float]], expected: dict[str, dict[int, float]]) -> None:
    assert found.keys() == expected.keys() and set(expected["objective/reward"]) == {1, 2, 3, 4}
    for name, points in expected.items():
        assert found[name] == pytest.approx(points, abs=1e-4, rel=1e-3), name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ppo_outlives_its_engine_and_its_training_worker(ppo, undisturbed, tmp_path) -> None:
    """The engine is killed after the first checkpoint, the worker after the second.

    Both are replaced, the run goes on from where it was and learns what it would have.
    """
    storage, log = tmp_path / "artifacts", tmp_path / "log"
    process = start("train_ppo", *ppo(storage), log=log)

    def kill_at(checkpoint: int, name: str) -> int:
        wait_for(storage / "train_ppo", f"*/checkpoints/checkpoint-{checkpoint}/complete.json", process, log)
        (found,) = [p for p in psutil.Process(process.pid).children(recursive=True) if name in p.name()]
        found.kill()
        return found.pid

    kill_at(1, "RolloutEngine")
    worker = kill_at(2, "RayTrainWorker")
    ended = finish(process)
    assert ended["code"] == 0, log.read_text()[-3000:]
    seen = re.findall(r"RayTrainWorker pid=(\d+)\D.* progress (\d)/4 iterations", log.read_text())
    first, second = ([int(done) for pid, done in seen if (pid == str(worker)) is own] for own in (True, False))
    assert first == [0, 1, 2] and second[0] in (3, 4) and second[-1] == 4, seen
    assert_same_curves(curves(storage, ended), undisturbed)
    replaced = dict(read_curves(storage, ended["run_id"])["rollout/engines_replaced"])
    assert (replaced[1], replaced[2]) == (0, 1)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.timeout(600)
def test_ppo_goes_on_after_a_hard_kill(ppo, cluster, undisturbed, tiny_model_dir, tmp_path) -> None:
    storage, log = tmp_path / "artifacts", tmp_path / "log"
    killed = start("train_ppo", *ppo(storage), log=log)
    wait_for(storage / "train_ppo", "*/checkpoints/checkpoint-2/complete.json", killed, log)
    killed.kill()
    killed.wait(10)
    code, ended, said = warm.ask("train_ppo", *ppo(storage), cluster=cluster)
    assert code == 0, said[-3000:]
    assert "going on from" in said
    assert_same_curves(curves(storage, ended), undisturbed)
    metrics = ended["metrics"]
    assert metrics["steps"] == 4 and metrics["rollout/engine_gap"] < 0.1 and math.isfinite(metrics["objective/kl"])
    assert metrics["update/first_log_ratio"] < 1e-4  # float32: nothing was updated between the two looks
    adapter = Path(ended["outputs"]["adapter"])
    assert (adapter / "adapter_model.safetensors").is_file() and (adapter / "lineage.json").is_file()
    assert not (adapter.parent / "checkpoints").exists()
    shown = [json.loads(line) for line in (adapter.parent / "samples.jsonl").read_text().splitlines()]
    assert {line["iteration"] for line in shown} >= {2, 4} and all("answer" in line for line in shown)

    code, merged, said = warm.ask("merge_adapter", f"storage={storage}", f"adapter={adapter}", f"base={tiny_model_dir}")
    assert code == 0 and merged["metrics"]["merge/parity"] < 1e-3, said[-3000:]


def wait_for(folder: Path, pattern: str, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 250
    while not any(folder.glob(pattern)):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["rollout.prompts=5"], "not a multiple"),
        (["rewards=[]"], "there is no reward"),
        (["rewards=[{model}]"], "is not a reward model"),
        (["reward.steps=1"], "needs a process reward model"),
        (["rollout.max_new_tokens=300"], "do not fit into rollout.engine.max_model_len"),
        (["rewards=[/no/such/folder]"], "does not exist"),
        (["reward.judge=1"], "no questions that the judge can read"),
        (["advantage.name=rloo", "rollout.samples=1"], "compares answers"),
        (["scale.min_workers=1"], "scale.min_workers: PPO's workers"),
        (["deepspeed.stage=3"], "use deepspeed.stage 0-2"),
        (["adapter.dropout=0.1"], "adapter.dropout"),
        (["adapter.first_layer=2"], "the model has 2 blocks, 0 to 1"),
        (["adapter.first_layer=1", "adapter.name=none"], "trains weights of every block"),
        (["guards.rewards=[{model}]", "eval_rows=0"], "set eval_rows above 0"),
        (["guards.rewards=[{model}]", "update.iterations=3"], "guards.rewards would change nothing"),
        (["optim.micro_batch_size=2"], "set update.micro_prompts"),
        (["kl.coeficient=1"], "did you mean 'coefficient'"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_2(storage, rewarded, tiny_model_dir, change, says) -> None:
    given = [f"model={tiny_model_dir}", f"prompts={storage}/lancedb#preferences"]
    given += [f"rewards=[{rewarded['outputs']['reward']}]"]
    changed = [text.format(model=tiny_model_dir) for text in change]
    code, _, log = warm.ask("train_ppo", f"storage={storage}", *given, *changed)
    assert code == 2 and says in log and "Traceback" not in log
