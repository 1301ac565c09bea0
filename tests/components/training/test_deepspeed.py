"""A worker joins DeepSpeed without building C++ code that no training calls, and sums gradients without losing any."""

import os
import subprocess
import sys
from pathlib import Path

_JOIN = """
import torch
import torch.distributed as dist
from components.training.deepspeed import join
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
join(gpu=False)
import deepspeed
total = torch.ones(2)
deepspeed.comm.all_reduce(total)
print(deepspeed.comm.get_world_size(), dist.get_backend(), total.tolist())
"""


def test_joining_builds_nothing_and_reduces(tmp_path: Path) -> None:
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", _JOIN], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "1 gloo [1.0, 1.0]"
    assert not list(tmp_path.iterdir())


_ACCUMULATE = """
import torch
import torch.distributed as dist
from components.training.deepspeed import DeepSpeedConfig, initialize, join
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
join(gpu=False)
passes = 300
for stage in (1, 2, 3):
    module = torch.nn.Linear(4, 1, bias=False, dtype=torch.bfloat16)
    with torch.no_grad():
        module.weight.zero_()
    optimizer = torch.optim.SGD(module.parameters(), lr=1 / passes)
    sharding = DeepSpeedConfig(stage=stage)
    engine = initialize(module, optimizer, sharding, bf16=True, max_grad_norm=0.0, passes=passes)
    for _ in range(passes):
        engine.backward(engine(torch.ones(1, 4, dtype=torch.bfloat16)).sum(), scale_wrt_gas=False)
        engine.step()
    print("stage", stage, module.weight.tolist())
dist.destroy_process_group()
"""


def test_many_passes_in_bfloat16_sum_without_loss() -> None:
    """Each pass's gradient is 1; in bfloat16 257 rounds to 256, and the weights would stay at -256/300."""
    env = {**os.environ, "DS_ACCELERATOR": "cpu", "LOCAL_RANK": "0"}
    done = subprocess.run([sys.executable, "-c", _ACCUMULATE], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    told = [line for line in done.stdout.splitlines() if line.startswith("stage")]
    assert told == [f"stage {stage} [[-1.0, -1.0, -1.0, -1.0]]" for stage in (1, 2, 3)]
