"""What this machine has of what a training takes: memory, space, package versions."""

import importlib.metadata
import shutil
from pathlib import Path

from components.config import WorkflowConfig
from components.training.doctor.findings import Finding, fine, look, problem
from components.training.estimate import WORKER_GIB, planned_memory
from components.training.settings import Recipe

_TIGHT_SHARE = 0.8  # of what is free: more is worth a look
_GIB = 2**30


def memory(folder: Path, recipe: Recipe, batch_tokens: int) -> Finding:
    """Whether the workers fit where they run, by arithmetic; on a running cluster only its own hosts could say."""
    workers = recipe.scale.workers
    planned = planned_memory(folder, recipe, batch_tokens).bytes / _GIB
    if recipe.scale.gpu:
        free = _gpu_free()
        if free is None:
            return look("memory", f"{planned:.1f} GiB on each worker's GPU, and this machine has none to compare with")
        return _fits("each worker's GPU", planned, free / _GIB)
    import psutil

    return _fits(f"{workers} worker(s)", (planned + WORKER_GIB) * workers, psutil.virtual_memory().available / _GIB)


def _fits(what: str, planned_gib: float, free_gib: float) -> Finding:
    text = f"{what}: at most {planned_gib:.1f} GiB of {free_gib:.1f} GiB free"
    if planned_gib > free_gib:
        return problem("memory", f"{text}: lower optim.micro_batch_size or max_tokens, or shard (deepspeed.stage)")
    return (look if planned_gib > _TIGHT_SHARE * free_gib else fine)("memory", text)


def _gpu_free() -> int | None:
    """Bytes that the first GPU has free; none where there is no GPU."""
    import torch

    return torch.cuda.mem_get_info(0)[0] if torch.cuda.is_available() else None


def space(storage: Path, folder: Path, recipe: Recipe, batch_tokens: int) -> Finding:
    """Whether checkpoints and the result fit on the disk that has the storage."""
    planned = planned_memory(folder, recipe, batch_tokens)
    # A checkpoint has trained weights and, of each, Adam's state and a float32 copy.
    need = (planned.trained * 16 * recipe.save.keep + planned.parameters * 4) / _GIB
    free = shutil.disk_usage(storage).free / _GIB
    text = f"{recipe.save.keep} checkpoints and the result take about {need:.1f} GiB of {free:.1f} GiB free"
    return (problem if need > free else fine)("disk", text)


def versions(package: str = "raylign") -> Finding:
    """Whether the installed packages are those that this version was tested with."""
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in importlib.metadata.requires(package) or ()]
    except importlib.metadata.PackageNotFoundError:
        return look("packages", f"{package} is not installed here (pip install -e .), so versions are not compared")
    wrong = []
    for need in wanted:
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
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


def storage_of(config: WorkflowConfig) -> Path:
    """The folder that a configuration's storage has on this machine."""
    from components import storage

    return storage.folder(config.storage)
