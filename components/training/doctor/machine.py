"""What this machine has of what a training takes: memory, space, package versions."""

import importlib.metadata
import os
import shutil
from pathlib import Path

from components.config import RayConfig
from components.training.doctor.findings import Finding, fine, look, problem
from components.training.estimate import WORKER_GIB, planned_memory
from components.training.ppo.estimate import PpoMemory
from components.training.ppo.settings import RolloutConfig
from components.training.settings import Recipe, ScaleConfig, weight_dtype

_TIGHT_SHARE = 0.8  # of what is free: more is worth a look
_GIB = 2**30
_STATE_BYTES = 16  # of a trained weight in a checkpoint: itself, a float32 copy, Adam's two moments


def memory(folder: Path, recipe: Recipe, batch_tokens: int, ray: RayConfig) -> Finding:
    """Whether the workers fit where they run, by arithmetic that leaves out what saves activations.

    It is a problem only where weights and optimizer alone do not fit; other hosts nobody has asked.
    """
    dtype = weight_dtype(recipe.optim.dtype, recipe.scale.gpu)
    least, most = (planned_memory(folder, recipe, tokens, dtype).bytes / _GIB for tokens in (0, batch_tokens))
    cures = "lower optim.micro_batch_size or max_tokens, or set optim.gradient_checkpointing=true"
    return _of_workers(least, most, recipe.scale, ray, cures)


def ppo_memory(planned: PpoMemory, scale: ScaleConfig, rollout: RolloutConfig, ray: RayConfig) -> Finding:
    """The same of PPO's workers, on a CPU with their engines; on a GPU that they share, what the engine leaves."""
    cures = "lower update.micro_prompts, max_prompt_tokens or rollout.samples"
    count, engine, share = rollout.engine.engines, planned.engine / _GIB, 1.0
    if rollout.share_gpus:
        share -= rollout.engine_beside_training.gpu_memory_share or 0.0
    beside = (0.0, 0.0) if scale.gpu else (count * engine, count * (engine + WORKER_GIB))
    least, most = planned.least / _GIB, planned.most / _GIB
    return _of_workers(least, most, scale, ray, cures, beside=beside, gpu_share=share, more=f" and {count} engine(s)")


def _of_workers(
    least: float,
    most: float,
    scale: ScaleConfig,
    ray: RayConfig,
    cures: str,
    *,
    beside: tuple[float, float] = (0.0, 0.0),
    gpu_share: float = 1.0,
    more: str = "",
) -> Finding:
    """Whether workers of ``least`` to ``most`` GiB fit where they run, on a CPU with so much ``beside`` them."""
    if ray.address or "RAY_ADDRESS" in os.environ:
        least, most = (gib + (0 if scale.gpu else WORKER_GIB) for gib in (least, most))
        return look("memory", f"{least:.1f} to {most:.1f} GiB a worker; the cluster's hosts were not asked for theirs")
    if scale.gpu:
        free = _gpu_free()
        if free is None:
            return look("memory", f"{least:.1f} to {most:.1f} GiB on each worker's GPU; this machine has none")
        return _fits("each worker's GPU", least, most, gpu_share * free / _GIB, cures)
    import psutil

    workers = scale.workers
    least, most = ((gib + WORKER_GIB) * workers + own for gib, own in zip((least, most), beside, strict=True))
    return _fits(f"{workers} worker(s){more}", least, most, psutil.virtual_memory().available / _GIB, cures)


def _fits(what: str, least: float, most: float, free: float, cures: str) -> Finding:
    text = f"{what}: {least:.1f} to {most:.1f} GiB of {free:.1f} GiB free"
    if least > free:
        return problem("memory", f"{text}: weights and optimizer alone are too large; train an adapter, or shard them")
    if most > _TIGHT_SHARE * free:
        return look("memory", f"{text}: if it runs out, {cures}")
    return fine("memory", text)


def _gpu_free() -> int | None:
    """Bytes that the first GPU has free; none where there is no GPU."""
    import torch

    return torch.cuda.mem_get_info(0)[0] if torch.cuda.is_available() else None


def space(storage: Path, folder: Path, recipe: Recipe) -> Finding:
    """Whether checkpoints and the result fit on the disk that has the storage."""
    return room(storage, planned_memory(folder, recipe, 0).trained, recipe.save.keep)


def room(storage: Path, trained: int, keep: int) -> Finding:
    """The same for so many trained weights, of which ``keep`` checkpoints stay."""
    need = trained * (_STATE_BYTES * keep + 4) / _GIB
    free = shutil.disk_usage(storage).free / _GIB
    text = f"{keep} checkpoints and the result take about {need:.1f} GiB of {free:.1f} GiB free"
    return (problem if need > free else fine)("disk", text)


def versions(package: str = "raylign") -> Finding:
    """Whether the installed packages are those that this version was tested with."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in importlib.metadata.requires(package) or ()]
    except importlib.metadata.PackageNotFoundError:
        return look("packages", f"{package} is not installed here (pip install -e .), so versions are not compared")
    wanted = [need for need in wanted if need.marker is None or need.marker.evaluate({"extra": ""})]
    wrong = []
    for need in wanted:
        try:
            version = importlib.metadata.version(need.name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{need.name} is missing")
            continue
        if not need.specifier.contains(version, prereleases=True):
            wrong.append(f"{need.name} is {version}, wanted is {need.specifier}")
    if wrong:
        return problem("packages", f"{'; '.join(wrong)}: run make setup")
    return fine("packages", f"{len(wanted)} requirements are met")
