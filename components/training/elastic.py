"""Training that goes on with fewer workers when hosts are lost, and with more when they return.

The rows of an optimizer step stay the same (``rows.batch_order`` deals them out for the whole job): fewer workers make
more forward passes of them. What DeepSpeed divided among so many workers is put together again for another number.
"""

from pathlib import Path
from typing import Any

from components.training import checkpoints, deepspeed


def fit(payload: dict[str, Any]) -> None:
    """Change a loop's payload for as many workers as there are in the process group; every rank takes part.

    It holds ``arguments`` for ``workers`` workers; the last checkpoint may be of yet another number of them.
    """
    import torch.distributed as dist

    arguments, world = payload["arguments"], dist.get_world_size()
    if world != payload["workers"]:
        passes = arguments["gradient_accumulation_steps"] * payload["workers"]
        arguments["gradient_accumulation_steps"] = passes // world
    if dist.get_rank() == 0:
        checkpoints.drop_incomplete(Path(payload["checkpoints"]))
    dist.barrier()
    found = checkpoints.latest(Path(payload["checkpoints"]))
    divided = found is not None and any(found.glob("global_step*/*optim_states.pt"))
    if found is None or not divided or checkpoints.workers_of(found) == world:
        return
    if dist.get_rank() == 0:
        deepspeed.undivide(found)
    dist.barrier()
    arguments["deepspeed"] = {**arguments["deepspeed"], "checkpoint": {"load_universal": True}}
