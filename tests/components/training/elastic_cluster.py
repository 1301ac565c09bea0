"""Trains on a cluster of two nodes, one of which is lost in mid-run and comes back; and on one node, undisturbed."""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from components.config import CPU_ENV
from components.data.chat import ChatTemplate
from components.models.adapters import AdapterConfig
from components.orchestration.cluster import path_with_python
from components.training import job
from components.training.deepspeed import DeepSpeedConfig
from components.training.rows import tokenize
from components.training.settings import OptimConfig, Recipe, SaveConfig, ScaleConfig
from components.training.sft import demonstration_ids, sft_loop

STEPS, BATCH, ROWS = 12, 4, 24
LOST_AT, BACK_AT = (4, 2), (8, 1)  # step and workers at which the cluster changes
ROOT = Path(__file__).parents[3]


@dataclass
class Log:
    """Notes each step's loss and how many workers made it, and waits where the cluster is about to change."""

    path: Path
    waits: bool
    storage: str = ""

    def log_metrics(self, metrics, step):
        import torch.distributed as dist

        if "train/loss" not in metrics:
            return
        at = (step, dist.get_world_size())
        with self.path.open("a") as lines:
            lines.write(json.dumps({"step": step, "workers": at[1], "loss": metrics["train/loss"]}) + "\n")
        if self.waits and at in (LOST_AT, BACK_AT):
            time.sleep(200)  # it is ended in here


def rows():
    return [
        {
            "prompt": [{"role": "user", "content": f"Which function joins {number} path names?"}],
            "completion": [{"role": "assistant", "content": f"It joins path names [{number % 3 + 1}]."}],
        }
        for number in range(ROWS)
    ]


def train(model: Path, folder: Path, log: Path, **scale) -> None:
    data = tokenize(rows(), demonstration_ids(ChatTemplate.from_folder(model)), max_tokens=256, what="t")
    recipe = Recipe(
        AdapterConfig(rank=4, alpha=8),
        OptimConfig(
            batch_size=BATCH, micro_batch_size=1, learning_rate=5e-3, dtype="float32", epochs=STEPS * BATCH / ROWS
        ),
        DeepSpeedConfig(),
        ScaleConfig(cpus_per_worker=1, **scale),
        SaveConfig(every=2),
        seed=3,
    )
    folder.mkdir()
    common = {"identity": {"model": "tiny"}, "payload": {"run": Log(log, waits="min_workers" in scale)}}
    job.train(sft_loop, recipe, model=model, train_rows=data, eval_rows=None, run_dir=folder, **common)


def change(cluster: Cluster, node, log: Path) -> None:
    """Take the node away at one point of the training, and bring another one at a later one."""
    wait_for(log, LOST_AT)
    cluster.remove_node(node, allow_graceful=False)
    wait_for(log, BACK_AT)
    cluster.add_node(num_cpus=1)


def wait_for(log: Path, at: tuple[int, int]) -> None:
    while True:
        whole, _, _ = log.read_text().rpartition("\n") if log.exists() else ("", "", "")
        found = [json.loads(line) for line in whole.splitlines()]
        if any((line["step"], line["workers"]) == at for line in found):
            return
        time.sleep(0.2)


def main(model: Path, folder: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    node = cluster.add_node(num_cpus=1)
    env = {**CPU_ENV, "PATH": path_with_python(), "PYTHONPATH": str(ROOT)}
    ray.init(address=cluster.address, runtime_env={"env_vars": env}, log_to_driver=True)
    try:
        train(model, folder / "alone", folder / "alone.jsonl", workers=1)
        with ThreadPoolExecutor() as beside:  # nodes can be started by the main thread only
            log, may = folder / "elastic.jsonl", {"workers": 2, "min_workers": 1, "resize_s": 3}
            training = beside.submit(train, model, folder / "elastic", log, **may)
            change(cluster, node, log)
            training.result()
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
