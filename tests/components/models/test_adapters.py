"""Adapters of every kind: attaching changes nothing at first, the right weights are theirs, and what they refuse."""

import pytest
import torch

from components.config import UserError, parse
from components.models.adapters import (
    AdapterConfig,
    adalora_schedule,
    check_on_shared_trunk,
    check_training,
    embeddings_and_norms,
    peft_config,
)
from components.models.load import load_model
from components.models.memory import adapter_parameters, adapts_nothing

IDS = [5, 9, 17, 30, 4]
KINDS = ("lora", "rslora", "dora", "loraplus", "adalora", "qlora", "longlora")
LINEAR = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def logits(model, ids):
    with torch.inference_mode():
        return model(input_ids=torch.tensor([ids])).logits


def adapted(folder, name, **changes):
    """The tiny model with a fresh adapter, and what it was before."""
    from peft import get_peft_model

    config = AdapterConfig(name=name, rank=4, alpha=8, **changes)
    model = load_model(folder, "float32", nf4=config.quantizes)
    before = logits(model, IDS)
    return get_peft_model(model, peft_config(config, model=model, steps=10)).eval(), before


def test_none_means_no_adapter():
    assert peft_config(AdapterConfig(name="none")) is None


@pytest.mark.parametrize("name", KINDS)
def test_a_fresh_adapter_changes_nothing(tiny_model_dir, name):
    model, before = adapted(tiny_model_dir, name)
    torch.testing.assert_close(logits(model, IDS), before, atol=2e-6 if name == "dora" else 0, rtol=0)


@pytest.mark.parametrize("name", KINDS)
def test_every_linear_layer_but_the_head_is_adapted_and_nothing_else_is_trained(tiny_model_dir, name):
    model, _ = adapted(tiny_model_dir, name)
    trained = [key for key, weight in model.named_parameters() if weight.requires_grad]
    adapters = [key for key in trained if ".lora_" in key]
    assert {key.split(".lora_")[0].rpartition(".")[2] for key in adapters} == LINEAR
    parts = {key.split(".lora_")[1].split(".")[0] for key in adapters}
    assert parts == {"A", "B"} | {"dora": {"magnitude_vector"}, "adalora": {"E"}}.get(name, set())
    others = {key.split(".modules_to_save")[0].rpartition("model.")[2] for key in trained if key not in adapters}
    norms = {f"layers.{layer}.{place}_layernorm" for layer in (0, 1) for place in ("input", "post_attention")}
    assert others == ({"embed_tokens", "norm", *norms} if name == "longlora" else set())


@pytest.mark.parametrize("name", KINDS)
def test_the_planner_counts_what_peft_trains(tiny_model_dir, name):
    model, _ = adapted(tiny_model_dir, name)
    counted = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert adapter_parameters(tiny_model_dir, AdapterConfig(name=name, rank=4)) == counted


def test_the_planner_counts_only_the_named_layers(tiny_model_dir):
    model, _ = adapted(tiny_model_dir, "lora", target_modules=("q_proj", "o_proj"))
    some = AdapterConfig(rank=4, target_modules=("q_proj", "o_proj"))
    assert adapter_parameters(tiny_model_dir, some) == model.get_nb_trainable_parameters()[0] == 2 * 4 * 2 * (64 + 64)


def test_the_planner_counts_no_block_under_the_first(tiny_model_dir):
    model, _ = adapted(tiny_model_dir, "dora", first_layer=1)
    some = AdapterConfig(name="dora", rank=4, first_layer=1)
    assert adapter_parameters(tiny_model_dir, some) == model.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize(
    ("targets", "first_layer", "nothing"),
    [
        ("all-linear", 1, False),
        (("q_proj",), 0, False),
        ("q_proj", 0, True),
        (r".*\.q_proj", 1, False),
        (("embed_tokens",), 0, False),
        (("w1",), 0, True),
    ],
)
def test_it_is_known_beforehand_that_no_layer_would_be_adapted(tiny_model_dir, targets, first_layer, nothing):
    config = AdapterConfig(rank=4, target_modules=targets, first_layer=first_layer)
    assert adapts_nothing(tiny_model_dir, config) == nothing
    if nothing:
        with pytest.raises(ValueError, match="not found in the base model"):
            adapted(tiny_model_dir, "lora", target_modules=targets)
    else:
        adapted(tiny_model_dir, "lora", target_modules=targets, first_layer=first_layer)


@pytest.mark.parametrize("given", [{"dropout": 0.1}, {"target_modules": ("q_proj",)}])
def test_keys_of_an_adapter_mean_nothing_without_one(given):
    with pytest.raises(ValueError, match=r"is set, but adapter\.name=none trains all weights"):
        AdapterConfig(name="none", **given)


def test_rslora_scales_by_the_root_of_the_rank(tiny_model_dir):
    for name, scale in (("lora", 8 / 4), ("rslora", 8 / 4**0.5)):
        model, _ = adapted(tiny_model_dir, name)
        assert model.base_model.model.model.layers[0].mlp.up_proj.scaling["default"] == scale


def test_longlora_keeps_tied_embeddings_tied(tiny_model_dir):
    model, _ = adapted(tiny_model_dir, "longlora")
    causal = model.base_model.model
    assert causal.lm_head.weight is causal.model.embed_tokens.weight and causal.lm_head.weight.requires_grad
    assert embeddings_and_norms(load_model(tiny_model_dir, "float32"))[0] == "model.embed_tokens"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"name": "lora", "adalora": {"every": 2}}, "adapter.adalora is set, but adapter.name is lora"),
        ({"name": "qlora", "loraplus": {"ratio": 4}}, "set adapter.name=loraplus"),
        ({"name": "adalora", "rank": 8, "adalora": {"start_rank": 8}}, "leaves nothing to take away"),
        ({"name": "adalora", "adalora": {"initial": 0.5, "final": 0.5}}, "no steps to shrink in"),
        ({"name": "longlora", "longlora": {"group_tokens": 7}}, "multiple of 2"),
        ({"name": "lorra"}, "'name' got 'lorra'"),
    ],
)
def test_a_wrong_section_is_one_sentence(values, said):
    with pytest.raises(UserError, match=said):
        parse(AdapterConfig, values)


@pytest.mark.parametrize("name", ["qlora", "adalora", "longlora"])
def test_zero_3_is_refused_where_whole_weights_are_needed(name):
    check_training(AdapterConfig(name=name), zero_stage=2)
    with pytest.raises(UserError, match=rf"adapter\.name={name} .*: use deepspeed\.stage 0-2"):
        check_training(AdapterConfig(name=name), zero_stage=3)


def test_longlora_beside_a_reference_needs_groups_that_cut_nothing():
    config = AdapterConfig(name="longlora")
    check_training(config, zero_stage=2, max_tokens=4096)
    check_training(config, zero_stage=2, max_tokens=1024, has_reference=True)
    with pytest.raises(UserError, match=r"group_tokens to 2 x max_tokens \(2050\)"):
        check_training(config, zero_stage=2, max_tokens=1025, has_reference=True)


@pytest.mark.parametrize("name", ["dora", "adalora", "qlora", "longlora"])
def test_what_a_shared_trunk_cannot_carry_is_refused(name):
    with pytest.raises(UserError, match=f"adapter.name={name} is not for PPO"):
        check_on_shared_trunk(AdapterConfig(name=name))


@pytest.mark.parametrize(
    "targets", [("q_proj", "lm_head"), ("model.embed_tokens",), r".*(v_proj|lm_head)", "model.wte"]
)
def test_heads_and_embeddings_stay_what_they_are_on_a_shared_trunk(targets):
    with pytest.raises(UserError, match=r"adapter\.target_modules names .*name layers of the blocks only"):
        check_on_shared_trunk(AdapterConfig(target_modules=targets))


@pytest.mark.parametrize("name", ["none", "lora", "rslora", "loraplus"])
def test_what_a_shared_trunk_carries(name):
    check_on_shared_trunk(AdapterConfig(name=name))


@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj"), r".*\.layers\.\d+\..*_proj"])
def test_layers_of_the_blocks_may_be_named(targets):
    check_on_shared_trunk(AdapterConfig(target_modules=targets))


def test_adaloras_schedule_spans_the_run_and_needs_one():
    config = AdapterConfig(name="adalora")  # a tenth before, three tenths after
    assert config.start_rank == 24
    assert adalora_schedule(config, 100) == (10, 30)
    assert adalora_schedule(config, 3) == (1, 1)  # never at the first step, where all importances are 0
    with pytest.raises(UserError, match="no step to shrink at in a run of 2"):
        adalora_schedule(config, 2)
