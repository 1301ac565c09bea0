"""Every preference loss in several processes, and sharded by DeepSpeed: the same training as in one."""

import pytest

from components.training.deepspeed import DeepSpeedConfig, build
from tests.components.training.preference_cases import LOSSES, curves_in, make_tables, payload_of, trainer_of


@pytest.fixture(scope="module")
def tables(tiny_model_dir):
    return make_tables(tiny_model_dir)


def curve_alone(which, tables, model, folder):
    """The losses of three steps of four rows, in this process and without DeepSpeed."""
    trainer, log, _ = trainer_of(which, tables, model, folder, steps=3, shift=3.0)
    trainer.train()
    return [step["train/loss"] for step in log.steps]


def test_two_processes_train_as_one_does(tables, tiny_model_dir, tmp_path):
    """The losses with a figure of the whole step: KTO's baseline, and the tokens that a mean is over."""
    losses = ("kto", "kto labelled", "sigmoid + tokens", "orpo")
    alone, payloads = {}, {}
    for which in losses:
        alone[which] = curve_alone(which, tables, tiny_model_dir, tmp_path / "alone" / which)
        folder = tmp_path / "both" / which
        payloads[which], _ = payload_of(which, tables, tiny_model_dir, folder, micro=2, passes=1, steps=3, shift=3.0)
    curves = curves_in(2, payloads, tmp_path / "both")
    for which in losses:
        assert curves[which] == pytest.approx(alone[which], rel=1e-3, abs=2e-4), which


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("processes", [1, 2])
def test_every_stage_of_zero_trains_as_none_does(processes, tables, tiny_model_dir, tmp_path):
    """Each loss, sharded by DeepSpeed's stages 0 to 3 over one process and two: the same losses in float32."""
    losses = [which for which, values in LOSSES.items() if which == values.get("name", "sigmoid")]
    assert len(losses) == 8
    alone = {which: curve_alone(which, tables, tiny_model_dir, tmp_path / "alone" / which) for which in losses}
    payloads = {}
    for which in losses:
        for stage in range(4):
            folder, shape = tmp_path / f"{which}-{stage}", {"micro": 2, "passes": 2 // processes, "steps": 3}
            payload, _ = payload_of(which, tables, tiny_model_dir, folder, shift=3.0, **shape)
            how = DeepSpeedConfig(stage=stage, param_persistence_threshold=0)  # else so small weights stay whole
            payload["arguments"]["deepspeed"] = build(how, bf16=False, max_grad_norm=1e9)
            payloads[folder.name] = payload
    curves = curves_in(processes, payloads, tmp_path / "sharded")
    assert curves.keys() == payloads.keys()
    for name, curve in curves.items():
        assert curve == pytest.approx(alone[name.partition("-")[0]], rel=1e-3, abs=2e-4), name
