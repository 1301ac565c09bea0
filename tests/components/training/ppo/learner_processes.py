"""Steps of the real optimizer in however many processes torch's launcher started; rank 0 writes what became of it.

Shapes: B rows, 4 numbers each.
"""

import json
import math
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from components.training.deepspeed import DeepSpeedConfig, join
from components.training.ppo.learner import DeepSpeedLearner
from components.training.ppo.settings import PpoOptimConfig
from components.training.ppo.workers import Workers

ROWS, PASSES, STEPS = 8, 2, 3


class Toy(torch.nn.Module):
    """A policy and a critic of four weights each."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.policy = torch.nn.Linear(4, 1, bias=False, dtype=dtype)
        self.value_head = torch.nn.Linear(4, 1, bias=False, dtype=dtype)
        for part in (self.policy, self.value_head):
            part.weight.data.copy_(torch.randn(1, 4, generator=generator))

    def forward(self, rows_B4: torch.Tensor) -> torch.Tensor:
        """Return a sum over the rows."""
        rows = rows_B4.to(self.policy.weight.dtype)
        return (torch.tanh(self.policy(rows)) + self.value_head(rows).square()).float().sum()


def losses(module: torch.nn.Module, step: int, spoil: float) -> list[torch.Tensor]:
    """This worker's part of a step's loss, a mean over all workers' rows, in its passes; as the loop hands it over."""
    rows = torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(step))
    own = rows.chunk(dist.get_world_size())[dist.get_rank()].chunk(PASSES)
    return [spoil * module(part) * dist.get_world_size() / ROWS for part in own]


def train(dtype: torch.dtype) -> dict:
    module = Toy(dtype)
    optim = PpoOptimConfig(learning_rate=0.05, critic_learning_rate=0.1, warmup=0.0, max_grad_norm=0.5)
    bf16 = dtype == torch.bfloat16
    learner = DeepSpeedLearner(module, optim, DeepSpeedConfig(), bf16=bf16, passes=PASSES)

    def weights() -> list[float]:
        return [x for part in (module.policy, module.value_head) for x in part.weight.flatten().tolist()]

    def step(number: int, spoil: float = 1.0) -> float:
        for loss in losses(learner.engine, number, spoil):
            learner.backward(loss)
        return learner.step(number / STEPS)

    norms = [step(number) for number in range(STEPS)]
    before = weights()
    spoiled = step(STEPS, math.nan if dist.get_rank() == 0 else 1.0)  # one worker's is enough
    kept = weights() == before
    step(STEPS + 1)
    return {"norms": norms, "weights": before, "nan": math.isfinite(spoiled), "kept": kept, "goes_on": weights()}


def late() -> str:
    """What a worker is told where the last one does not come."""
    together = Workers(1.0)
    try:
        if dist.get_rank() == 0 or together.count == 1:
            together.meet()
        else:
            time.sleep(5.0)
    except RuntimeError as error:
        return str(error)
    return ""


def main(out: Path) -> None:
    dist.init_process_group("gloo")
    join(gpu=False)
    found: dict = {str(dtype): train(dtype) for dtype in (torch.float32, torch.bfloat16)}
    found["sum"] = Workers(60.0).sum(torch.tensor([1.0, float(dist.get_rank())])).tolist()
    found["late"] = late()
    if dist.get_rank() == 0:
        out.write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
