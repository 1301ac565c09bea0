"""The roles of a PPO run, on one trunk and apart, against plain models that hold the same weights."""

import pytest
import torch
from transformers import LlamaForCausalLM

from components.models.adapters import AdapterConfig
from components.models.load import load_model, load_tokenizer
from components.models.rewards import RewardModel
from tests.components.training.ppo.tiny_roles import (
    ANSWERS,
    LORA,
    NONE,
    PROMPTS,
    make_reward,
    make_roles,
    outputs,
    plainly,
    shake,
)


@pytest.mark.parametrize("adapter", [LORA, NONE], ids=["shared", "separate"])
def test_before_training_the_policy_is_the_reference(adapter, tiny_model_dir):
    policy, reference, values = outputs(make_roles(tiny_model_dir, adapter=adapter))
    assert torch.equal(policy, reference)
    assert policy.dtype == values.dtype == torch.float32 and values.shape == policy.shape
    torch.testing.assert_close(policy, plainly(load_model(tiny_model_dir, "float32"))[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("adapter", [LORA, NONE], ids=["shared", "separate"])
def test_the_roles_do_not_touch_each_other(adapter, tiny_model_dir, reward):
    """What the policy learns changes neither critic, nor reference, nor reward; what the critic learns, only it."""
    shared = adapter is LORA
    roles = make_roles(tiny_model_dir, [reward], adapter)
    first = outputs(roles)

    def rewards():
        if not shared:
            return torch.tensor(roles.own_rewards[0].score(PROMPTS, ANSWERS))
        packed, _ = roles.batch(PROMPTS, ANSWERS)
        with torch.no_grad():
            return roles.trunk_rewards[0].score(packed, packed.last_B)

    scored = rewards()
    shake(roles.module, ".lora_B.policy." if shared else "policy.")
    policy, reference, values = outputs(roles)
    assert (policy - first[0]).abs().max() > 1e-2
    assert torch.equal(reference, first[1]) and torch.equal(values, first[2]) and torch.equal(rewards(), scored)
    shake(roles.module, ".lora_B.critic." if shared else "own_critic.")
    after = outputs(roles)
    assert (after[2] - values).abs().max() > 1e-3
    assert torch.equal(after[0], policy) and torch.equal(after[1], reference) and torch.equal(rewards(), scored)


def test_without_an_adapter_the_models_are_three(tiny_model_dir):
    module = (roles := make_roles(tiny_model_dir, adapter=NONE)).module
    models = [module.policy, module.own_critic, roles.reference]
    addresses = [{weight.data_ptr() for weight in model.parameters()} for model in models]
    assert not addresses[0] & addresses[1] and not addresses[0] & addresses[2] and not addresses[1] & addresses[2]
    assert not {weight.data_ptr() for weight in module.parameters()} & addresses[2]


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("adapter", [LORA, NONE], ids=["shared", "separate"])
def test_a_plain_model_with_the_policys_weights_is_the_policy(adapter, is_tied, tiny_model_dir, reward, tmp_path):
    base = tiny_model_dir
    if not is_tied:
        base = tmp_path / "untied"
        config = load_model(tiny_model_dir, "float32").config
        config.tie_word_embeddings = False
        torch.manual_seed(5)
        LlamaForCausalLM(config).save_pretrained(base)
        load_tokenizer(tiny_model_dir).save_pretrained(base)
    roles = make_roles(base, [reward] if is_tied else [], adapter)
    shake(roles.module, ".lora_B." if adapter is LORA else "policy.")
    found = list(roles.policy_weights())
    plain = load_model(base, "float32")
    names = set(plain.state_dict()) - ({"lm_head.weight"} if is_tied else set())
    assert {name for name, _ in found} == names and len(found) == len(names)
    outcome = plain.load_state_dict(dict(found), strict=False)
    assert outcome.missing_keys == (["lm_head.weight"] if is_tied else []) and not outcome.unexpected_keys
    torch.testing.assert_close(plainly(plain)[0], outputs(roles)[0], atol=1e-5, rtol=1e-5)
    assert not any(weight.requires_grad for _, weight in found)


def test_a_reward_may_adapt_layers_that_the_policy_does_not(tiny_model_dir, reward):
    """And its weights are not the policy's."""
    few = AdapterConfig(rank=4, alpha=8.0, target_modules=("q_proj",))
    roles = make_roles(tiny_model_dir, [reward], few)
    shake(roles.module, ".lora_B.policy.")
    policy = outputs(roles)[0]
    plain = load_model(tiny_model_dir, "float32")
    plain.load_state_dict(dict(roles.policy_weights()), strict=False)
    torch.testing.assert_close(plainly(plain)[0], policy, atol=1e-5, rtol=1e-5)


def test_what_is_trained_survives_every_switch(tiny_model_dir, reward):
    roles = make_roles(tiny_model_dir, [reward])

    def trainable():
        return {name for name, weight in roles.module.named_parameters() if weight.requires_grad}

    before = trainable()
    assert {
        part for name in before for part in ("policy", "critic", "value_head", "reward0") if f".{part}." in f".{name}"
    }
    assert all(".lora_" in name or "value_head" in name for name in before)
    assert not any("reward0" in name for name in before)
    assert any(".lora_A.policy." in name for name in before) and any(".lora_B.critic." in name for name in before)
    packed, _ = roles.batch(PROMPTS, ANSWERS)
    outputs(roles)
    roles.trunk_rewards[0].score(packed, packed.last_B)
    list(roles.policy_weights())
    assert trainable() == before


def test_a_reward_on_the_trunk_is_the_reward_model_on_its_own(tiny_model_dir, reward):
    roles = make_roles(tiny_model_dir, [reward])
    shake(roles.module, ".lora_B.policy.")
    assert len(roles.trunk_rewards) == 1 and not roles.own_rewards
    packed, _ = roles.batch(PROMPTS, ANSWERS)
    with torch.no_grad():
        found_BK = roles.trunk_rewards[0].score(packed, packed.last_B)
    expected = torch.tensor(RewardModel(reward, dtype="float32").score(PROMPTS, ANSWERS))
    torch.testing.assert_close(found_BK.view(3, 2, 2).transpose(0, 1), expected, atol=1e-4, rtol=1e-4)


def test_several_rewards_may_share_the_trunk_or_stand_beside_it(tiny_model_dir, reward, whole_reward, tmp_path):
    second = make_reward(tiny_model_dir, tmp_path / "second", 3, AdapterConfig(rank=2, alpha=2.0))
    roles = make_roles(tiny_model_dir, [reward, whole_reward, second])
    assert [own.folder for own in roles.trunk_rewards] == [reward, second] and len(roles.own_rewards) == 1
    packed, _ = roles.batch(PROMPTS, ANSWERS)
    for own in roles.trunk_rewards:
        with torch.no_grad():
            found = own.score(packed, packed.last_B).view(3, 2, 2).transpose(0, 1)
        expected = torch.tensor(RewardModel(own.folder, dtype="float32").score(PROMPTS, ANSWERS))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_of_another_base_does_not_share_the_trunk(tiny_model_dir, reward, tmp_path):
    other = tmp_path / "other"
    model = load_model(tiny_model_dir, "float32")
    shake(model, "norm")
    model.save_pretrained(other)
    load_tokenizer(tiny_model_dir).save_pretrained(other)
    roles = make_roles(other, [reward])
    assert not roles.trunk_rewards
    expected = RewardModel(reward, dtype="float32").score(PROMPTS, ANSWERS)
    assert roles.own_rewards[0].score(PROMPTS, ANSWERS) == expected


@pytest.mark.parametrize("adapter", [LORA, NONE], ids=["shared", "separate"])
def test_what_is_saved_is_the_policy(adapter, tiny_model_dir, reward, tmp_path):
    roles = make_roles(tiny_model_dir, [reward], adapter)
    shake(roles.module, ".lora_B." if adapter is LORA else "policy.")
    roles.save(tmp_path / "out", load_tokenizer(tiny_model_dir))
    if adapter is LORA:
        assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in (tmp_path / "out").iterdir()}
        assert not any(path.is_dir() for path in (tmp_path / "out").iterdir())
        model = load_model(tiny_model_dir, "float32", tmp_path / "out")
    else:
        model = load_model(tmp_path / "out", "float32")
    torch.testing.assert_close(plainly(model)[0], outputs(roles)[0], atol=1e-5, rtol=1e-5)


def test_one_answer_to_each_prompt_needs_no_sharing(tiny_model_dir):
    roles = make_roles(tiny_model_dir)
    packed, labels_N = roles.batch(PROMPTS, [own[:1] for own in ANSWERS])
    with torch.no_grad():
        found = roles.module(packed, labels_N, 1.0)[0]
    expected = plainly(load_model(tiny_model_dir, "float32"))[0][:5]  # of [20, 21] and [30, 31, 32]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3], ids=["one answer", "three answers"])
def test_layers_below_the_adapters_are_computed_once(count, tiny_model_dir, reward):
    """Passes from what they made have the log-probabilities and gradients of whole passes, for every role."""
    roles = make_roles(tiny_model_dir, [reward], LORA.model_copy(update={"first_layer": 1}))
    assert roles.first_layer == 1
    assert not any(".layers.0." in name for name, w in roles.module.named_parameters() if w.requires_grad)
    shake(roles.module, ".lora_B.")
    answers = [own[:count] for own in ANSWERS]

    def results(kept):
        roles.module.zero_grad()
        packed, labels_N = roles.batch(PROMPTS, answers, kept)
        logprobs, _, values = roles.module(packed, labels_N, 1.0)
        (logprobs.square().sum() + values.square().sum()).backward()
        grads = {name: w.grad.clone() for name, w in roles.module.named_parameters() if w.grad is not None}
        reference = roles.reference_logprobs(packed, labels_N, 1.0)
        return {"logprobs": logprobs, "values": values, "reference": reference, **grads}

    packed, _ = roles.batch(PROMPTS, answers)
    kept = roles.learn_below(packed, PROMPTS, answers)
    assert [len(row) for row in kept] == [len(p) + sum(map(len, a)) for p, a in zip(PROMPTS, answers, strict=True)]
    expected, found = results(()), results(kept)
    assert expected.keys() == found.keys() and len(found) > 10
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=name)
    poisoned = results([row * 1.5 for row in kept])
    assert (poisoned["logprobs"] - found["logprobs"]).abs().max() > 1e-3


@pytest.mark.parametrize("reward_begins", [0, 1])
def test_a_critic_that_starts_as_a_reward_keeps_the_layers_of_that_one(reward_begins, tiny_model_dir, tmp_path):
    """Its values start as the reward's rewards; from states of layers without its adapter they would not."""
    begins = LORA.model_copy(update={"first_layer": reward_begins})
    reward = make_reward(tiny_model_dir, tmp_path / "reward", 4, begins)
    roles = make_roles(tiny_model_dir, [reward], LORA.model_copy(update={"first_layer": 1}), critic="reward")
    assert roles.first_layer == roles.trunk_rewards[0].first_layer == reward_begins
    packed, labels_N = roles.batch(PROMPTS, ANSWERS)
    kept = roles.learn_below(packed, PROMPTS, ANSWERS)
    assert bool(kept) == bool(reward_begins)
    packed, labels_N = roles.batch(PROMPTS, ANSWERS, kept)
    with torch.no_grad():
        values = roles.module(packed, labels_N, 1.0)[2]
        packed.predicts_N = packed.last_B  # where the reward is read
        found = roles.module.value(packed)
    assert values.shape == labels_N.shape
    expected = torch.tensor(RewardModel(reward, dtype="float32").score(PROMPTS, ANSWERS)).mean(-1)
    torch.testing.assert_close(found.view(3, 2).T, expected, atol=1e-4, rtol=1e-4)
