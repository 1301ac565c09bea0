"""Trains the payloads of a file in however many processes torch's launcher started; rank 0 writes the loss curves.

Of a reward model (a payload with ``kind``) these are all figures of each step. A payload with ``checkpoints`` goes on
from the last one there, whatever number of processes wrote it.
"""

import json
import os
import sys
from pathlib import Path

import torch
from transformers import TrainerCallback

from components.training import elastic, preference, reward
from components.training.callbacks import train_metrics
from components.training.checkpoints import mark_complete
from components.training.deepspeed import join
from components.training.launch import resume_point


class Log(TrainerCallback):
    """The figures of each step, under the names that a run has."""

    def __init__(self):
        self.steps = []

    def on_log(self, args, state, control, logs, **_):
        if "loss" in logs:
            self.steps.append(train_metrics(logs))


class Marks(TrainerCallback):
    """Declares checkpoints whole, as a Ray Train worker does."""

    def on_save(self, args, state, control, **_):
        torch.distributed.barrier()
        if state.is_world_process_zero:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            mark_complete(folder, state.global_step, workers=args.world_size)
        torch.distributed.barrier()


def main(payloads: Path, curves: Path) -> None:
    found = {}
    for name, payload in json.loads(payloads.read_text()).items():
        log = Log()
        if "deepspeed" in payload["arguments"]:
            join(gpu=False)
        goes_on = "checkpoints" in payload
        if goes_on:
            elastic.fit(payload)
        make_trainer = reward.make_trainer if "kind" in payload else preference.make_trainer
        trainer = make_trainer(payload, [log, Marks()] if goes_on else [log])
        assert trainer.accelerator.num_processes == int(os.environ["WORLD_SIZE"])
        assert trainer.is_deepspeed_enabled == ("deepspeed" in payload["arguments"])
        zero = payload["arguments"].get("deepspeed", {}).get("zero_optimization", {})
        if zero.get("stage") == 3:
            assert any(hasattr(weight, "ds_id") for weight in trainer.model.parameters()), "not divided as it loaded"
        trainer.train(resume_from_checkpoint=resume_point(payload) if goes_on else None)
        if "deepspeed" in payload["arguments"]:
            wanted = payload["arguments"]["deepspeed"]["zero_optimization"]["stage"]
            assert trainer.deepspeed.zero_optimization_stage() == wanted
        found[name] = log.steps if "kind" in payload else [step["train/loss"] for step in log.steps]
    if trainer.is_world_process_zero():
        curves.write_text(json.dumps(found))
    # Gloo's threads must end before Python does: one that lets go of a tensor while Python ends aborts the process.
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
