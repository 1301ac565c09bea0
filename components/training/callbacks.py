"""What happens at each step of a TRL trainer on a Ray Train worker: figures, progress, checkpoints, invariants."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.progress import progress
from components.tracking.run import RunHandle
from components.training import cost
from components.training.checkpoints import mark_complete

if TYPE_CHECKING:
    from transformers import TrainerCallback

_NAMES = {
    "loss": "train/loss",
    "grad_norm": "train/grad_norm",
    "learning_rate": "train/learning_rate",
    "entropy": "train/entropy",
    "mean_token_accuracy": "train/token_accuracy",
    "nll_loss": "train/nll",
    "kl": "train/kl_baseline",
}
_KEPT_PREFIXES = ("rewards/", "logps/", "completions/")


class Breach(RuntimeError):
    """Something that must hold while training does not; trying again would only show it again."""


def train_metrics(logs: dict[str, Any]) -> dict[str, float]:
    """Return the trainer's figures of one step under the names that the run's curves have."""
    named = {_NAMES.get(name, name): float(value) for name, value in logs.items() if isinstance(value, (int, float))}
    return {name: value for name, value in named.items() if name.startswith(("train/", *_KEPT_PREFIXES))}


def eval_metrics(metrics: dict[str, float]) -> dict[str, float]:
    """Return the trainer's ``eval_*`` figures under the names that the run's curves have."""
    named = {"eval/" + name.removeprefix("eval_"): float(value) for name, value in metrics.items()}
    named = {name.replace("mean_token_accuracy", "token_accuracy"): value for name, value in named.items()}
    dropped = (
        "eval/runtime",
        "eval/samples_per_second",
        "eval/steps_per_second",
        "eval/num_tokens",
        "eval/epoch",
    )
    return {name: value for name, value in named.items() if name not in dropped}


def make_callback(
    run: RunHandle, evidence: Path, check_first_step: Callable[[dict[str, float]], str | None] | None = None
) -> "TrainerCallback":
    """Return the callback of one worker; only rank 0 writes figures.

    Args:
        evidence: file that the figures of a breached invariant are written to.
        check_first_step: given the figures of step 1, returns what is wrong with them, if anything.
    """
    import ray.train
    import torch.distributed as dist
    from transformers import TrainerCallback

    class WorkerCallback(TrainerCallback):
        def __init__(self) -> None:
            self.started_s = time.monotonic()
            self.tokens = 0.0
            self.breach: str | None = None
            self.steps_s: list[float] = []

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.started_s = time.monotonic()

        def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if not state.is_world_process_zero:
                return
            if self.steps_s:
                cost.write(evidence.parent, model, self.steps_s)
            else:
                cost.take_over(Path(args.output_dir) / f"checkpoint-{state.global_step}", evidence.parent)

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any], **_: Any) -> None:
            if "loss" not in logs:
                return
            figures = train_metrics(logs)
            now_s = time.monotonic()
            figures["time/step"] = now_s - self.started_s
            self.steps_s.append(figures["time/step"])
            if "num_tokens" in logs:  # trainers that read no text count none
                tokens = float(logs["num_tokens"])
                figures["train/tokens_per_s"] = (tokens - self.tokens) / max(figures["time/step"], 1e-9)
                self.tokens = tokens
            self.started_s = now_s
            self.breach = self._what_is_wrong(state.global_step, figures)
            if state.is_world_process_zero:
                run.log_metrics(
                    {name: value for name, value in figures.items() if math.isfinite(value)},
                    state.global_step,
                )
                progress(state.global_step, state.max_steps, "steps")
                if self.breach:
                    evidence.write_text(json.dumps({"breach": self.breach, "step": state.global_step, **figures}))
            if self.breach:
                control.should_training_stop = True
                control.should_save = False

        def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if dist.is_initialized():
                dist.barrier()
            if state.is_world_process_zero:
                cost.write(folder, model, self.steps_s)
                mark_complete(folder, state.global_step, run.storage, workers=args.world_size)
            if dist.is_initialized():
                dist.barrier()
            ray.train.report(
                {"step": state.global_step},
                checkpoint=ray.train.Checkpoint.from_directory(str(folder)),
                checkpoint_upload_mode=ray.train.CheckpointUploadMode.NO_UPLOAD,
            )
            self.started_s = time.monotonic()

        @staticmethod
        def _what_is_wrong(step: int, figures: dict[str, float]) -> str | None:
            odd = sorted(name for name, value in figures.items() if not math.isfinite(value))
            if odd:
                return f"{', '.join(odd)} not finite at step {step}"
            return check_first_step(figures) if step == 1 and check_first_step else None

    return WorkerCallback()
