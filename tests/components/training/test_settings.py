"""Batch arithmetic and the DeepSpeed dict."""

import pytest

from components.config import UserError, parse
from components.training.deepspeed import DeepSpeedConfig, build
from components.training.settings import OptimConfig, Recipe, accumulation
from workflows.train_dpo import TrainDpo
from workflows.train_reward import TrainReward
from workflows.train_sft import TrainSft


def test_accumulation_shares_a_batch_out_evenly():
    assert accumulation(OptimConfig(batch_size=16, micro_batch_size=2), workers=2) == 4
    with pytest.raises(UserError, match="not a multiple"):
        accumulation(OptimConfig(batch_size=8, micro_batch_size=3), workers=2)


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_accepts_the_dict(stage):
    """DeepSpeed's own parser is the judge: it refuses keys and values that it does not know."""
    from deepspeed.runtime.config import DeepSpeedConfig as Parsed

    settings = build(DeepSpeedConfig(stage=stage), bf16=True, max_grad_norm=0.5)
    sizes = {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 8, "gradient_accumulation_steps": 1}
    parsed = Parsed(settings | sizes)
    assert parsed.zero_optimization_stage == stage
    assert parsed.bfloat16_config.enabled and parsed.gradient_clipping == 0.5


@pytest.mark.parametrize("workflow", [TrainDpo, TrainReward, TrainSft])
def test_dropout_is_refused_where_it_would_do_nothing(workflow):
    table = "demonstrations" if workflow is TrainSft else "preferences"
    config = parse(workflow, {"model": "m", table: "uri#t", "adapter": {"dropout": 0.1}})
    if workflow is TrainSft:
        assert Recipe.of(config).adapter.dropout == 0.1
        return
    with pytest.raises(UserError, match=r"adapter\.dropout acts in train_sft only"):
        Recipe.of(config)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"full_steps": 4, "adapter": {"name": "none"}}, "adapter.name=none trains all"),
        ({"full_steps": 1}, "the first step also sets things up"),
    ],
)
@pytest.mark.parametrize("workflow", [TrainDpo, TrainReward, TrainSft])
def test_full_steps_that_would_tell_nothing_are_refused(workflow, change, says):
    table = "demonstrations" if workflow is TrainSft else "preferences"
    assert Recipe.of(parse(workflow, {"model": "m", table: "uri#t", "full_steps": 4})).full_steps == 4
    with pytest.raises(UserError, match=says):
        Recipe.of(parse(workflow, {"model": "m", table: "uri#t", **change}))
