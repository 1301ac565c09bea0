"""TRL's DPOTrainer by itself, timed: a script for a plain process, which knows nothing of this project.

Usage: ``python -P peer_trl_dpo.py SPEC.json``; see ``preference.trl_arguments`` for what the file holds. It prints one
JSON line for each optimizer step, ``{"loss": …, "seconds": …}``, and at the end ``reference_seconds`` (0 where the
reference is run in each step) and ``gpu_bytes``. Everything else goes to stderr.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def watcher(say: Callable[[str], None]) -> Any:
    """Return a callback that says a line at the end of each optimizer step."""
    from transformers import TrainerCallback

    class Watcher(TrainerCallback):
        started_s = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.started_s = time.monotonic()

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" not in logs:
                return
            now_s = time.monotonic()
            say(json.dumps({"loss": logs["loss"], "seconds": now_s - self.started_s}))
            print(f"progress {state.global_step}/{state.max_steps} steps", file=sys.stderr, flush=True)
            self.started_s = now_s

    return Watcher()


def build(spec: dict[str, Any], callback: Any) -> tuple[Any, float]:
    """Return TRL's trainer, and the seconds in which it computed the reference's log-probabilities beforehand."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    seconds, plain = [0.0], DPOTrainer._precompute_ref_logps

    def timed(*args: Any, **kwargs: Any) -> Any:
        started_s = time.monotonic()
        try:
            return plain(*args, **kwargs)
        finally:
            seconds.append(time.monotonic() - started_s)

    adapter = spec["adapter"] and LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", **spec["adapter"])
    arguments = DPOConfig(
        output_dir=spec["output_dir"],
        max_steps=spec["steps"],
        per_device_train_batch_size=spec["micro_batch_size"],
        gradient_accumulation_steps=spec["batch_size"] // spec["micro_batch_size"],
        learning_rate=spec["learning_rate"],
        lr_scheduler_type="constant",
        beta=spec["beta"],
        max_length=None,  # no pair is longer than it may be
        precompute_ref_log_probs=spec["precomputes"],
        bf16=False,  # that is autocast: the weights are in this format already
        gradient_checkpointing=False,
        train_sampling_strategy="sequential",  # the rows are shuffled already
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=not spec["gpu"],
        dataloader_pin_memory=False,
        disable_tqdm=True,
        seed=spec["seed"],
    )
    DPOTrainer._precompute_ref_logps = timed
    try:
        trainer = DPOTrainer(
            AutoModelForCausalLM.from_pretrained(spec["model"], dtype=getattr(torch, spec["dtype"])),
            args=arguments,
            train_dataset=Dataset.from_list(spec["rows"]),
            processing_class=AutoTokenizer.from_pretrained(spec["model"]),
            peft_config=adapter,
            callbacks=[callback],
        )
    finally:
        DPOTrainer._precompute_ref_logps = plain
    return trainer, sum(seconds)


def main(path: str) -> None:
    """Train as the specification says."""
    import torch

    lines, sys.stdout = sys.stdout, sys.stderr  # TRL prints its figures
    spec = json.loads(Path(path).read_text())
    torch.set_num_threads(spec["threads"])

    def say(line: str) -> None:
        print(line, file=lines, flush=True)

    trainer, reference_seconds = build(spec, watcher(say))
    trainer.train()
    gpu_bytes = torch.cuda.max_memory_allocated() if spec["gpu"] else 0
    say(json.dumps({"reference_seconds": reference_seconds, "gpu_bytes": gpu_bytes}))


if __name__ == "__main__":
    main(sys.argv[1])
