"""Runs a training loop in Ray Train workers, again and again from its last checkpoint if a worker dies."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.config import AT_ONCE_VARIABLE, CPU_ENV, UserError
from components.training import checkpoints, deepspeed, elastic
from components.training.callbacks import Breach
from components.training.settings import ScaleConfig

FOLDER = "checkpoints"
logger = logging.getLogger(__name__)


def launch(
    loop: Callable[[dict[str, Any]], dict[str, Any]],
    payload: dict[str, Any],
    scale: ScaleConfig,
    run_dir: Path,
    identity: dict[str, str],
    sizes: tuple[int, ...] = (),
    *,
    gpus_each: float = 1.0,
) -> dict[str, Any]:
    """Run ``loop(payload)`` on every worker and return what rank 0's returned.

    The payload (plain data) gains ``checkpoints``, ``threads`` and ``workers``.

    Args:
        sizes: how many workers there may be, where that may change in mid-run; see ``settings.group_sizes``.
        gpus_each: with ``scale.gpu``, the share of a GPU that a worker reserves.

    Raises:
        UserError: the cluster is too small, or the checkpoints in ``run_dir`` are of something else.
        Breach: an invariant broke on a worker.
    """
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig

    from components.training.process_group import ProcessGroup, backend
    from components.training.scaling_policy import Trainer

    cores = worker_cores(scale)
    folder = run_dir / FOLDER
    resume_from = checkpoints.prepare(folder, {**identity, "workers": str(scale.workers)}, payload["run"].storage)
    if resume_from:
        logger.info("going on from %s", resume_from)
    payload = {**payload, "checkpoints": str(folder), "threads": cores, "workers": scale.workers}
    trainer = Trainer(
        loop,
        train_loop_config=payload,
        torch_config=ProcessGroup(backend=backend(scale.gpu)),
        scaling_config=ScalingConfig(
            num_workers=(sizes[0], sizes[-1]) if scale.min_workers else scale.workers,
            elastic_resize_monitor_interval_s=scale.resize_s,
            use_gpu=scale.gpu,
            placement_strategy=scale.placement,
            resources_per_worker={"CPU": cores, **({"GPU": gpus_each} if scale.gpu else {})},
        ),
        run_config=RunConfig(
            name=FOLDER,
            storage_path=str(run_dir),
            failure_config=FailureConfig(max_failures=scale.max_failures),
            logging_config=LoggingConfig(log_level="WARNING"),
            worker_runtime_env={"env_vars": worker_env(cores, scale.gpu)},
        ),
    )
    trainer.sizes, trainer.wait_s = sizes, scale.wait_s
    result = trainer.fit()
    returned = result.return_value or {}
    if returned.get("breach"):
        raise Breach(f"{returned['breach']}; the figures are in {payload.get('evidence')}")
    return returned


def worker_cores(scale: ScaleConfig) -> int:
    """Return the cores of each worker: what the config says, else an even share of the cluster's.

    A job that is one of several points of a sweep shares with as many as run at once.

    Raises:
        UserError: the cluster has fewer cores or GPUs than the workers need.
    """
    import ray

    at_once = int(os.environ.get(AT_ONCE_VARIABLE, "1"))
    return share_cores([node["Resources"] for node in ray.nodes() if node["Alive"]], scale, at_once)


def share_cores(nodes: Sequence[Mapping[str, float]], scale: ScaleConfig, at_once: int = 1) -> int:
    """Return the cores of each worker on nodes with these resources; a worker lies on one node, whole.

    With ``scale.min_workers``, room for so many is enough, at the share that all of them would have.

    Args:
        at_once: jobs like this one that the cores are for.

    Raises:
        UserError: as ``worker_cores``.
    """
    gpus = sum(int(node.get("GPU", 0)) for node in nodes)
    enough = scale.fewest
    if scale.gpu and gpus < enough:
        raise UserError(
            f"{enough} workers with scale.gpu need as many GPUs, the cluster has {gpus}: set "
            f"scale.gpu=false or fewer workers, or ray.wait_for.GPU={enough} where a pool can bring them"
        )
    if scale.gpu:
        at_once = max(1, min(at_once, gpus // scale.workers))  # the others wait for a GPU
    fit = [node for node in nodes if node.get("GPU", 0) >= 1] if scale.gpu else list(nodes)
    total = sum(int(node.get("CPU", 0)) for node in fit)

    def places(cores: int) -> int:
        by_cpu = [int(node.get("CPU", 0)) // cores for node in fit]
        return sum(min(n, int(node["GPU"])) if scale.gpu else n for n, node in zip(by_cpu, fit, strict=True))

    most = max(1, total // (scale.workers * at_once))
    if scale.gpu and fit:  # what is left belongs to the node's other GPUs
        most = max(1, min(most, *(int(node.get("CPU", 0)) // int(node["GPU"]) for node in fit)))
    share = range(most, 0, -1)
    wanted = [scale.cpus_per_worker] if scale.cpus_per_worker else list(share)
    for cores in wanted:
        if places(cores) >= enough:
            return cores
    raise UserError(
        f"{enough} workers of {wanted[-1]} cores need more than the cluster's {total} cores on {len(fit)} hosts"
    )


def once(function: Callable[..., Any], scale: ScaleConfig, *arguments: Any) -> Any:
    """Return ``function(*arguments)``, called in a Ray task with the cores and the GPU that one worker alone would get.

    What follows training, as measuring its result, so runs where training did: the driver may have no GPU.

    Raises:
        UserError: the cluster is too small.
    """
    import ray

    cores = worker_cores(scale.model_copy(update={"workers": 1, "min_workers": None}))
    task = ray.remote(_with_threads).options(
        num_cpus=cores, num_gpus=int(scale.gpu), runtime_env={"env_vars": worker_env(cores, scale.gpu)}
    )
    return ray.get(task.remote(function, cores, arguments))


def _with_threads(function: Callable[..., Any], threads: int, arguments: Sequence[Any]) -> Any:
    from components.models.load import set_threads

    set_threads(threads)
    return function(*arguments)


def worker_env(cores: int, gpu: bool) -> dict[str, str]:
    """Return what has to be in a worker's environment before its Python starts."""
    return {
        **CPU_ENV,
        "OMP_NUM_THREADS": str(cores),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",  # models were resolved to folders before; a worker fetches nothing
        "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",  # else each line that a worker prints arrives twice
        **({} if gpu else {"DS_ACCELERATOR": "cpu"}),
    }


def prepare_worker(payload: dict[str, Any]) -> None:
    """Set up the process of one worker: threads, seed, where DeepSpeed finds ninja to compile with, its share."""
    import torch
    import transformers

    folder = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([folder, os.environ.get("PATH", os.defpath)])
    torch.set_num_threads(payload["threads"])
    for chatty in ("accelerate", "ray.train", "bitsandbytes"):  # the last misses a faster kernel that nothing here uses
        logging.getLogger(chatty).setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.set_seed(payload["seed"])
    deepspeed.join(gpu=not payload["arguments"]["use_cpu"])
    elastic.fit(payload)


def resume_point(payload: dict[str, Any]) -> str | None:
    """Return the last whole checkpoint; every rank finds the same one, as none writes before all have started."""
    found = checkpoints.latest(Path(payload["checkpoints"]))
    return str(found) if found else None
