"""What a training takes, as far as files tell without loading or starting anything."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components import storage
from components.training.rows import split_condition, steps_of
from components.training.settings import Recipe, TrainingConfig, accumulation, weight_dtype

WORKER_GIB = 1.5  # a Ray Train worker with torch, transformers and DeepSpeed in it, before any weight, on CPU


def estimate(config: TrainingConfig, model: str, table: str, *, sides: int) -> dict[str, Any]:
    """Return workers, steps and memory; ``sides`` is 2 where a row is a pair.

    Raises:
        UserError: the batch cannot be shared out over the workers, or the model cannot be what it is said to be.
    """
    recipe = Recipe.of(config)
    optim, scale = recipe.optim, recipe.scale
    cores = f"{scale.cpus_per_worker} each" if scale.cpus_per_worker else "the cluster's, shared out"
    found: dict[str, Any] = {
        "workers": f"{scale.count} with {'a GPU' if scale.gpu else 'no GPU'}, cores: {cores}",
        "forward passes a step": accumulation(optim, scale.workers),
        "steps": _steps(table, recipe, getattr(config, "where", None)),
    }
    if recipe.full_steps:
        found["steps of full fine-tuning"] = f"{recipe.full_steps} after those, measured and not kept"
    reference = getattr(config, "reference", None)
    if reference is not None and reference.moves:
        takes = "a second model beside it" if config.adapter.name == "none" else "one more pass over the same weights"
        found["reference"] = f"follows the policy every {reference.every} steps, {takes}"
    home = storage.folder(config.storage)
    return found | {"memory of a worker": _memory(model, home, recipe, config.max_tokens * sides)}


def _steps(table: str, recipe: Recipe, where: str | None) -> str:
    from components.data import store

    if not store.exists(table):
        return f"known once {table} is there"
    rows = store.count(table, where=split_condition("train", where))
    steps = steps_of(rows, recipe.optim.epochs, recipe.optim.batch_size)
    return f"{steps} of {recipe.optim.batch_size} rows, from {rows} in split 'train'"


def _memory(model: str, home: Path, recipe: Recipe, row_tokens: int) -> str:
    from components.models import sources

    folder = sources.local(model, home / "cache")
    if folder is None:
        return f"known once {model} is fetched"
    dtype = weight_dtype(recipe.optim.dtype, recipe.scale.gpu)
    memory = planned_memory(folder, recipe, recipe.optim.micro_batch_size * row_tokens, dtype)
    gib, trained, parameters = memory.bytes / 2**30 + WORKER_GIB, memory.trained / 1e6, memory.parameters / 1e6
    text = f"at most {gib:.1f} GiB ({trained:.1f} of {parameters:.1f} M weights trained)"
    if recipe.adapter.name == "none":
        return text
    text += f", {(memory.full_bytes - memory.bytes) / 2**30:.2f} GiB less than training all weights"
    if recipe.full_steps:
        text += f", which is measured afterwards: at most {memory.full_bytes / 2**30 + WORKER_GIB:.1f} GiB"
    return text


@dataclass(frozen=True)
class PlannedMemory:
    """What one worker's models, gradients and optimizer take by arithmetic, and what they would without an adapter."""

    parameters: int
    trained: int
    bytes: int
    full_bytes: int


def planned_memory(folder: Path, recipe: Recipe, batch_tokens: int, dtype: str | None = None) -> PlannedMemory:
    """Return the arithmetic for the model in ``folder``.

    Args:
        batch_tokens: padded tokens of one forward pass.
        dtype: number format of the weights where ``auto`` is resolved already.

    Raises:
        UserError: the folder's weights or config cannot be read without loading them.
    """
    from components.models import memory

    shape, adapter = memory.read_shape(folder), recipe.adapter
    trained = shape.parameters if adapter.name == "none" else memory.adapter_parameters(folder, adapter)
    common: dict[str, Any] = {
        "batch_tokens": batch_tokens,
        "bytes_per_value": 4 if (dtype or recipe.optim.dtype) == "float32" else 2,
        **recipe.deepspeed.shards(recipe.scale.fewest),
    }
    in_4_bits = memory.linear_parameters(folder) if adapter.quantizes else 0
    own = memory.training_bytes(shape, trained=trained, nf4_parameters=in_4_bits, **common)
    if adapter.name != "none":
        own += trained * common["bytes_per_value"]  # the adapter's weights, beside the model's
    full = memory.training_bytes(shape, trained=shape.parameters, **common)
    return PlannedMemory(shape.parameters, trained, own, full)
