"""What a PPO run takes in memory and on disk, as far as files tell without loading or starting anything."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError
from components.models import memory
from components.models.adapter_base import is_adapter
from components.models.load import engine_dtype
from components.models.rewards import RewardInfo
from components.training.estimate import WORKER_GIB
from components.training.settings import weight_dtype


@dataclass(frozen=True)
class PpoMemory:
    """Bytes by arithmetic: of a worker without and with what a pass computes, and of an engine; trained weights."""

    trained: int
    least: int
    most: int
    engine: int  # its weights, and on a CPU its key-value cache


def planned_memory(config: Any, folder: Path, digest: str | None = None) -> PpoMemory:
    """Return the arithmetic for a PPO run on the model in ``folder``, if prompts share passes with their answers.

    Args:
        config: a TrainPpo.
        digest: of the model; without it, every reward that is an adapter is taken to share the policy's trunk.

    Raises:
        UserError: the folder's weights or config cannot be read without loading them.
    """
    shape, adapter, rollout, update = memory.read_shape(folder), config.adapter, config.rollout, config.update
    value = _bytes(weight_dtype(config.optim.dtype, config.scale.gpu))
    has_critic = config.advantage.name == "gae" and config.advantage.critic != "policy"
    on_trunk = adapter.name != "none"
    each = memory.adapter_parameters(folder, adapter) if on_trunk else shape.parameters
    trained = each * (1 + has_critic)
    held = trained + shape.parameters  # the last is the trunk, or the reference
    held += sum(_own_parameters(Path(reward), digest, on_trunk=on_trunk) for reward in config.rewards)
    held += sum(_own_parameters(Path(reward), "", on_trunk=False) for reward in config.guards.rewards)
    shards = config.deepspeed.of_own_loop().shards(config.scale.workers)
    least = held * value + memory.training_bytes(
        shape, trained=trained, batch_tokens=0, bytes_per_value=value, **shards
    )
    least -= shape.parameters * value  # training_bytes counts the model, too
    prompts = min(update.micro_prompts, rollout.prompts // (config.scale.workers * update.minibatches))
    tokens = prompts * (config.max_prompt_tokens + rollout.samples * rollout.max_new_tokens)
    with_pass, without = (
        memory.training_bytes(shape, trained=0, batch_tokens=some, bytes_per_value=value) for some in (tokens, 0)
    )
    engine = shape.parameters * _bytes(engine_dtype(rollout.engine.dtype, config.scale.gpu))
    if not config.scale.gpu:
        engine += round(rollout.engine.kv_cache_gib * 2**30)
    return PpoMemory(trained, least, least + (with_pass - without) * (1 + has_critic), engine)


def describe(config: Any, cache: Path) -> str:
    """Return the same in words; a model that is not on this machine yet is not fetched."""
    from components.models import sources

    folder = sources.local(config.model, cache)
    if folder is None:
        return f"known once {config.model} is fetched"
    planned, own = planned_memory(config, folder), 0 if config.scale.gpu else WORKER_GIB
    worker, engine = planned.most / 2**30 + own, planned.engine / 2**30 + own
    return f"at most {worker:.1f} GiB a worker ({planned.trained / 1e6:.1f} M weights trained), {engine:.1f} an engine"


def _own_parameters(folder: Path, digest: str | None, *, on_trunk: bool) -> int:
    """Return the parameters of a reward model that does not share the policy's trunk; 0 for one that does."""
    whole = folder
    if is_adapter(folder):
        info = RewardInfo.read(folder)
        if on_trunk and digest in (None, info.base_digest):
            return 0
        whole = Path(info.base)
    if not (whole / "config.json").is_file():
        return 0  # it cannot be loaded either, and that is told when it is
    try:
        return memory.read_shape(whole).parameters
    except UserError:  # of a kind that cannot be estimated
        return 0


def _bytes(dtype: str) -> int:
    return 4 if dtype == "float32" else 2
