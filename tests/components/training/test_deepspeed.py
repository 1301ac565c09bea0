"""A worker joins DeepSpeed without building C++ code that no training calls."""

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
