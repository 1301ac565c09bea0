"""What stands for the run on a real Ray Train worker in tests."""

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Log:
    """Writes figures to a file, and can kill its worker once, at a step."""

    path: Path
    dies_at: int | None = None
    storage: str = ""

    def log_metrics(self, metrics, step):
        with self.path.open("a") as lines:
            lines.write(json.dumps({"step": step, **metrics}) + "\n")
        died = self.path.with_suffix(".died")
        if step == self.dies_at and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def curve(self, name):
        return {line["step"]: line[name] for line in map(json.loads, self.path.read_text().splitlines())}

    def losses(self):
        return self.curve("train/loss")


def too_large_without_adapter(payload):
    """The loop of supervised fine-tuning on a worker with no room for the gradients of all weights."""
    from components.training.sft import sft_loop

    if payload["adapter"]["name"] == "none":
        raise MemoryError("this worker is full")
    return sft_loop(payload)
