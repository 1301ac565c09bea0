"""What the callback of a worker makes of a real trainer's figures."""

import json
from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer, TrainingArguments

from components.models.adapters import AdapterConfig
from components.training.callbacks import make_callback
from components.training.deepspeed import DeepSpeedConfig
from components.training.settings import OptimConfig, Recipe, SaveConfig, ScaleConfig, trainer_arguments


class Line(torch.nn.Module):
    """A model whose loss is its weight times what it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x):
        return {"loss": (self.weight * x).mean()}


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_is_a_breach(tmp_path, odd):
    """In the second of three steps, where one of two passes has it."""
    optim = OptimConfig(batch_size=4, micro_batch_size=2)
    recipe = Recipe(AdapterConfig(name="none"), optim, DeepSpeedConfig(stage=0), ScaleConfig(), SaveConfig(), seed=0)
    arguments = trainer_arguments(recipe, bf16=False, steps=3, checkpoints=tmp_path / "checkpoints")
    for name in ("max_length", "deepspeed"):  # which TRL's have, and which takes a process group
        del arguments[name]
    logged = {}
    run = SimpleNamespace(log_metrics=lambda figures, step: logged.update({step: figures}), storage=str(tmp_path))
    callback = make_callback(run, tmp_path / "evidence.json")
    values = [1.0, 2.0, 3.0, 4.0, 1.0, odd, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    trainer = Trainer(
        Line(), TrainingArguments(**arguments), callbacks=[callback], train_dataset=[{"x": x} for x in values]
    )
    trainer.train()
    assert trainer.state.global_step == 2
    assert "train/loss" in callback.breach and callback.breach.endswith("not finite at step 2")
    assert json.loads((tmp_path / "evidence.json").read_text())["step"] == 2
    assert logged[1]["train/loss"] == pytest.approx(2.5) and "train/loss" not in logged[2]
