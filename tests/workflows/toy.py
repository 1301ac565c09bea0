"""Small tables and pipelines that workflows are run on in tests."""

import os
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import psutil

from components.data import store
from components.data.records import DEMONSTRATION, PREFERENCE
from components.tracking.run import Result, finish_run, open_run

ROOT = Path(__file__).resolve().parents[2]


def write_tables(folder: Path, *, train: int, test: int = 0) -> None:
    """Write demonstrations and preference pairs in which the answer that cites wins."""
    answer = [{"role": "assistant", "content": "It joins path names [1]."}]
    refusal = [{"role": "assistant", "content": "I don't know."}]
    demonstrations, pairs = [], []
    for number in range(train + test):
        prompt = [{"role": "user", "content": f"Which function joins {number} path names?"}]
        split = "train" if number < train else "test"
        common = {"prompt_id": f"q{number}", "prompt": prompt, "kind": "what", "split": split, "source": "test"}
        demonstrations.append({**common, "completion": answer})
        scores = {"chosen_score": 1.0, "rejected_score": 0.0}
        pairs.append({**common, **scores, "pair_id": f"p{number}", "chosen": answer, "rejected": refusal})
    uri = str(folder / "lancedb")
    store.write(uri, "demonstrations", demonstrations, schema=DEMONSTRATION, key="prompt_id")
    store.write(uri, "preferences", pairs, schema=PREFERENCE, key="pair_id")


def pipeline_of(yaml: str, folder: Path) -> list[str]:
    """Return the command line of a pipeline, with the id of a run that exists for RUN_ID."""
    storage = folder / "storage"
    storage.mkdir()
    with open_run(storage, "raylign", "made", uuid.uuid4().hex, {}) as run:
        finish_run(run, Result({}), 0.0)
    file = folder / "toy.yaml"
    file.write_text(yaml.replace("RUN_ID", run.id))
    return [sys.executable, "-m", "workflows.pipeline", str(file), f"storage={storage}"]


def run_apart(command: list[str], timeout_s: float = 280) -> subprocess.CompletedProcess:
    """Run a command that is to start a Ray cluster of its own."""
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, env=clusterless())


def kill_hard(process: subprocess.Popen) -> None:
    """Send SIGKILL to a process with a cluster of its own, and wait until nothing that it started is left."""
    family = psutil.Process(process.pid).children(recursive=True)
    assert any("raylet" in child.name() for child in family)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    _, alive = psutil.wait_procs(family, timeout=40)
    assert not alive, [child.name() for child in alive]


def clusterless() -> dict[str, str]:
    """Return this process's environment without what it says of the tests' own Ray cluster."""
    hidden = ("RAY_ADDRESS", "RAY_JOB_CONFIG_JSON_ENV_VAR", "RAY_AUTH_TOKEN", "RAY_AUTH_MODE")
    return {name: value for name, value in os.environ.items() if name not in hidden}
