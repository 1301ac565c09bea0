"""What a training takes, as far as files tell without loading or starting anything."""

from pathlib import Path
from typing import Any

from components.training.rows import steps_of
from components.training.settings import Recipe, TrainingConfig, accumulation

_WORKER_GIB = 1.5  # a Ray Train worker with torch, transformers and DeepSpeed in it, before any weight, on CPU


def estimate(config: TrainingConfig, model: str, table: str, *, sides: int) -> dict[str, Any]:
    """Return workers, steps and memory; ``sides`` is 2 where a row is a pair.

    Raises:
        UserError: the batch cannot be shared out over the workers, or the model cannot be what it is said to be.
    """
    recipe = Recipe.of(config)
    optim, scale = recipe.optim, recipe.scale
    cores = f"{scale.cpus_per_worker} each" if scale.cpus_per_worker else "the cluster's, shared out"
    found: dict[str, Any] = {
        "workers": f"{scale.workers} with {'a GPU' if scale.gpu else 'no GPU'}, cores: {cores}",
        "forward passes a step": accumulation(optim, scale.workers),
        "steps": _steps(table, recipe),
    }
    return found | {"memory of a worker": _memory(model, Path(config.storage), recipe, config.max_tokens * sides)}


def _steps(table: str, recipe: Recipe) -> str:
    from components.data import store

    if not store.exists(table):
        return f"known once {table} is there"
    rows = store.count(table, where="split = 'train'")
    steps = steps_of(rows, recipe.optim.epochs, recipe.optim.batch_size)
    return f"{steps} of {recipe.optim.batch_size} rows, from {rows} in split 'train'"


def _memory(model: str, storage: Path, recipe: Recipe, row_tokens: int) -> str:
    from components.models import memory, sources

    folder = sources.local(model, storage / "cache")
    if folder is None:
        return f"known once {model} is fetched"
    shape, adapter = memory.read_shape(folder), recipe.adapter
    trained = shape.parameters if adapter.name == "none" else memory.lora_parameters(folder, adapter.rank)
    size = memory.training_bytes(
        shape,
        trained=trained,
        batch_tokens=recipe.optim.micro_batch_size * row_tokens,
        bytes_per_value=4 if recipe.optim.dtype == "float32" else 2,
        shards=recipe.scale.workers if recipe.deepspeed.stage else 1,
    )
    gib, millions = size / 2**30 + _WORKER_GIB, 1e6
    return f"at most {gib:.1f} GiB ({trained / millions:.1f} of {shape.parameters / millions:.1f} M weights trained)"
