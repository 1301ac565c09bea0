"""Writes what was trained: an adapter in PEFT's format, or a whole model folder."""

import shutil
from pathlib import Path
from typing import Any


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
