"""Runs a trainer to its end and writes what was trained: an adapter in PEFT's format, or a whole model folder."""

import shutil
from pathlib import Path
from typing import Any


def run_and_save(trainer: Any, callback: Any, payload: dict[str, Any]) -> dict[str, Any]:
    """Train from the last whole checkpoint on, measure, save; return the final figures, or the invariant that broke.

    Args:
        callback: the one that the trainer was given; see ``callbacks.make_callback``.
        payload: of the loop: ``eval`` and ``out`` (none: the model is not kept), and where checkpoints lie.
    """
    from components.training.callbacks import eval_metrics
    from components.training.launch import resume_point

    trainer.train(resume_from_checkpoint=resume_point(payload))
    if callback.breach:
        return {"breach": callback.breach}
    measured = eval_metrics(trainer.evaluate()) if payload["eval"] else {}
    if payload["out"]:
        save_trained(trainer, Path(payload["out"]))
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]  # those before a restart, too
    return {"steps": trainer.state.global_step, "train/mean_loss": sum(losses) / len(losses), **measured}


def save_trained(trainer: Any, folder: Path) -> None:
    """Write the trained adapter or model, and its tokenizer, to ``folder``; every rank takes part (ZeRO-3)."""
    if trainer.is_world_process_zero():
        shutil.rmtree(folder, ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    trainer.save_model(str(folder))
    trainer.accelerator.wait_for_everyone()
    if trainer.is_world_process_zero():
        for extra in ("training_args.bin", "README.md"):
            (folder / extra).unlink(missing_ok=True)
