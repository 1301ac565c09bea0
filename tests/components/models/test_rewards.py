"""Reward models against transformers' own backbone, run on one unpadded sequence, and a head applied by hand."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from components.config import UserError
from components.models.adapters import AdapterConfig, peft_config
from components.models.folder import digest
from components.models.packing import collate
from components.models.rewards import (
    CombineConfig,
    RewardInfo,
    RewardModel,
    attach,
    combine,
    disagreement,
    held_out_statistics,
    load_base,
)
from components.models.step_rewards import step_ends, worst_step

HEADS, RANK, ALPHA = 3, 4, 8.0
MEAN, STD = (0.5, -0.25, 0.0), (2.0, 0.5, 1.0)
PROMPTS = [[5, 6, 7, 8], [9, 10], [11, 12, 13]]
ANSWERS = [[[20, 21], [22, 23, 24, 25], [26]], [[30], [31, 32, 33], [34, 35]], [[40, 41, 42], [43], [44, 45]]]


def info_of(folder, kind="outcome"):
    return RewardInfo(kind, HEADS, str(folder), digest(folder), "template", MEAN, STD)


@pytest.fixture(scope="module")
def whole(tiny_model_dir, tmp_path_factory):
    """A reward model with all of its weights in the folder."""
    folder = tmp_path_factory.mktemp("rewards") / "whole"
    load_base(tiny_model_dir, HEADS, "float32", 1).save_pretrained(folder)
    info_of(tiny_model_dir).write(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(tiny_model_dir, tmp_path_factory):
    """A reward model that is an adapter; nothing in it is 0, as nothing is after training."""
    from peft import get_peft_model

    folder = tmp_path_factory.mktemp("rewards") / "adapter"
    config = peft_config(AdapterConfig(rank=RANK, alpha=ALPHA), task="SEQ_CLS")
    model = get_peft_model(load_base(tiny_model_dir, HEADS, "float32", 1), config)
    generator = torch.Generator().manual_seed(2)
    for name, weight in model.named_parameters():
        if ".lora_B." in name or "score.modules_to_save" in name:
            weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder)
    info_of(tiny_model_dir).write(folder)
    return folder


def backbone_and_head(folder, base):
    """transformers' backbone, the adapter's products added to its weights by hand, and the head's weight."""
    if not (folder / "adapter_config.json").is_file():
        return AutoModel.from_pretrained(folder, dtype=torch.float32).eval(), load_file(folder / "model.safetensors")[
            "score.weight"
        ]
    backbone = AutoModel.from_pretrained(base, dtype=torch.float32).eval()
    state = load_file(folder / "adapter_model.safetensors")
    weights = dict(backbone.named_parameters())
    for key in state:
        if key.endswith(".lora_A.weight"):
            layer = key.removesuffix(".lora_A.weight")
            product = state[f"{layer}.lora_B.weight"] @ state[key] * (ALPHA / RANK)
            weights[layer.removeprefix("base_model.model.model.") + ".weight"].data += product
    (head,) = [weight for key, weight in state.items() if key.endswith("score.weight")]
    return backbone, head


def expected_rewards(folder, base, prompt, answer, places):
    backbone, head = backbone_and_head(folder, base)
    with torch.no_grad():
        states = backbone(input_ids=torch.tensor([[*prompt, *answer]])).last_hidden_state[0]
    raw = states[[len(prompt) + place for place in places]] @ head.T
    return (raw - torch.tensor(MEAN)) / torch.tensor(STD)


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_a_reward_is_the_head_at_the_last_token(kind, tiny_model_dir, request):
    folder = request.getfixturevalue(kind)
    model = RewardModel(folder, dtype="float32")
    found = model.score(PROMPTS, ANSWERS)
    assert [len(own) for own in found] == [3, 3, 3]
    for prompt, answers, own in zip(PROMPTS, ANSWERS, found, strict=True):
        for answer, values in zip(answers, own, strict=True):
            expected = expected_rewards(folder, tiny_model_dir, prompt, answer, [len(answer) - 1])[0]
            torch.testing.assert_close(torch.tensor(values), expected, atol=1e-4, rtol=1e-4)


def test_answers_are_scored_alike_alone_and_together_in_any_batch(adapter):
    model = RewardModel(adapter, dtype="float32")
    together = model.score(PROMPTS, ANSWERS)
    for p, answers in enumerate(ANSWERS):
        for k, answer in enumerate(answers):
            ((alone,),) = model.score([PROMPTS[p]], [[answer]])
            assert together[p][k] == pytest.approx(alone, abs=1e-4)
    uneven = [ANSWERS[0], ANSWERS[1][:1], ANSWERS[2][:2]]
    model.max_batch_tokens = 8
    for own, wanted in zip(model.score(PROMPTS, uneven), together, strict=True):
        for values, others in zip(own, wanted, strict=False):
            assert values == pytest.approx(others, abs=1e-4)


def test_what_is_padded_with_does_not_matter(adapter, monkeypatch):
    from components.models import rewards

    model = RewardModel(adapter, dtype="float32")
    expected = model.score(PROMPTS, ANSWERS)
    monkeypatch.setattr(rewards, "collate", lambda rows, _: collate(rows, 377))
    for own, wanted in zip(model.score(PROMPTS, ANSWERS), expected, strict=True):
        assert own == [pytest.approx(values, abs=1e-5) for values in wanted]


@pytest.mark.parametrize("kind", ["whole", "adapter"])
def test_each_step_is_read_at_its_own_last_token(kind, tiny_model_dir, request):
    folder = request.getfixturevalue(kind)
    answers, ends = [[20, 21, 22, 23], [30, 31], [40, 41, 42]], [[0, 3], [1], [0, 1, 2]]
    found = RewardModel(folder, dtype="float32").score_steps(PROMPTS, answers, ends)
    for prompt, answer, places, values in zip(PROMPTS, answers, ends, found, strict=True):
        expected = expected_rewards(folder, tiny_model_dir, prompt, answer, places)
        torch.testing.assert_close(torch.tensor(values), expected, atol=1e-4, rtol=1e-4)


def test_an_answer_without_a_step_to_read_has_no_reward(adapter):
    """Such as a held-out solution none of whose steps is labelled."""
    found = RewardModel(adapter, dtype="float32").score_steps(PROMPTS[:2], [[20, 21], [30]], [[], [0]])
    assert found[0] == [] and len(found[1]) == 1


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("share", [1, 2])
def test_while_training_the_padding_side_does_not_matter(share, side, whole, tiny_model_dir):
    """As in training: raw rewards of the batch that the trainer makes, first answers first."""
    model = RewardModel(whole, dtype="float32").model
    rows = [(prompt, own[k]) for k in range(2) for prompt, own in zip(PROMPTS, ANSWERS, strict=True)]
    batch = collate(rows, 377)
    if side == "left":
        for values in batch.values():
            for number, (prompt, answer) in enumerate(rows):
                values[number] = values[number].roll(values.shape[1] - len(prompt) - len(answer))
    attach(model, share)
    with torch.no_grad():
        found = model(
            input_ids=batch["input_ids_BT"],
            attention_mask=batch["attention_BT"],
            completion_mask=batch["completion_BT"],
        )
    assert found.shape == (6, HEADS) and found.dtype == torch.float32
    for (prompt, answer), values in zip(rows, found, strict=True):
        expected = expected_rewards(whole, tiny_model_dir, prompt, answer, [len(answer) - 1])[0]
        torch.testing.assert_close((values - torch.tensor(MEAN)) / torch.tensor(STD), expected, atol=1e-4, rtol=1e-4)


def test_while_training_steps_are_read_in_the_order_of_the_batch(whole, tiny_model_dir):
    model = RewardModel(whole, dtype="float32").model
    rows = [(PROMPTS[0], [20, 21, 22]), (PROMPTS[1], [30, 31, 32, 33])]
    batch = collate(rows, 0)
    at = torch.zeros_like(batch["completion_BT"])
    at[0, [4, 6]] = at[1, [2, 3, 5]] = True
    attach(model, 1)
    with torch.no_grad():
        found = model(
            input_ids=batch["input_ids_BT"],
            attention_mask=batch["attention_BT"],
            completion_mask=batch["completion_BT"],
            at=at,
            labels=None,
        )
    normalised = (found - torch.tensor(MEAN)) / torch.tensor(STD)
    first = expected_rewards(whole, tiny_model_dir, *rows[0], [0, 2])
    second = expected_rewards(whole, tiny_model_dir, *rows[1], [0, 1, 3])
    torch.testing.assert_close(normalised, torch.cat([first, second]), atol=1e-4, rtol=1e-4)


def test_fresh_heads_are_small_and_told_by_the_seed(tiny_model_dir):
    """400 heads of 64 weights with variance 1 / 65: the mean square of 25,600 of them is within 3 % of it."""
    first, again, other = (load_base(tiny_model_dir, 400, "float32", seed).score.weight for seed in (3, 3, 4))
    assert first.shape == (400, 64)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert float(first.square().mean()) == pytest.approx(1 / 65, rel=0.03)


def test_the_folder_says_what_the_model_is(tmp_path):
    info = RewardInfo("process", 2, "/base", "abc", "def", (0.5, 1.0), (1.0, 2.0))
    info.write(tmp_path)
    assert RewardInfo.read(tmp_path) == info
    replace(info, mean=(0.0, 0.0)).write(tmp_path)
    assert RewardInfo.read(tmp_path).mean == (0.0, 0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["reward.json"]
    assert json.loads((tmp_path / "reward.json").read_text())["heads"] == 2


def test_a_folder_that_is_no_reward_model_is_refused(tiny_model_dir):
    with pytest.raises(UserError, match=r"is not a reward model: it has no reward\.json"):
        RewardModel(tiny_model_dir)


def test_an_adapter_is_refused_once_its_base_has_changed(tiny_model_dir, adapter, tmp_path):
    base, folder = tmp_path / "base", tmp_path / "adapter"
    shutil.copytree(tiny_model_dir, base)
    shutil.copytree(adapter, folder)
    info_of(base).write(folder)
    RewardModel(folder, dtype="float32")
    state = load_file(base / "model.safetensors")
    state["model.norm.weight"] = state["model.norm.weight"] + 1e-3
    save_file(state, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="which has changed since: train it again"):
        RewardModel(folder, dtype="float32")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CombineConfig(name="mean"), 3.0),
        (CombineConfig(name="min"), 1.0),
        # The deviation of 1, 2, 3, 6 is sqrt((4 + 1 + 0 + 9) / 4) = sqrt(3.5).
        (CombineConfig(name="mean_minus_std", penalty=2.0), 3.0 - 2.0 * math.sqrt(3.5)),
        (CombineConfig(name="mean_minus_std", penalty=0.0), 3.0),
        # Four heads are at 0, 1/3, 2/3 and 1: half is between 2 and 3, 0.9 is 0.7 of the way from 3 to 6.
        (CombineConfig(name="quantile", quantile=0.0), 1.0),
        (CombineConfig(name="quantile", quantile=0.5), 2.5),
        (CombineConfig(name="quantile", quantile=0.9), 5.1),
        (CombineConfig(name="quantile", quantile=1.0), 6.0),
    ],
)
def test_heads_make_one_reward(config, expected):
    assert combine([6.0, 1.0, 3.0, 2.0], config) == pytest.approx(expected)


@pytest.mark.parametrize("name", ["mean", "min", "mean_minus_std", "quantile"])
def test_one_head_is_the_reward(name):
    assert combine([-1.5], CombineConfig(name=name)) == -1.5


def test_disagreement_is_the_heads_deviation():
    assert disagreement([6.0, 1.0, 3.0, 2.0]) == pytest.approx(math.sqrt(3.5))
    assert disagreement([7.0]) == 0.0 and disagreement([7.0, 7.0]) == 0.0


def test_held_out_statistics_are_per_head():
    """Of 1 and 3 they are 2 and 1; a head that always says 5 has a deviation all the same, to divide by."""
    assert held_out_statistics([[1.0, 5.0], [3.0, 5.0]]) == ((2.0, 5.0), (1.0, 1e-6))


@pytest.mark.parametrize(
    ("tokens", "ends"),
    [
        (["a", "b", "\n", "c", "<end>"], [2, 4]),
        (["a", "\n\n", "b"], [1, 2]),  # a blank line is no step
        (["a", "\n", "\n", "b"], [1, 3]),
        (["a", "\n", "  ", "\n", "b"], [1, 4]),  # nor is one with spaces
        (["\n", "\n", "a", "\n", "b"], [3, 4]),  # nor are line breaks before all text
        (["a", ".\n", "b", "!\n\n", "c"], [1, 3, 4]),  # a line break may be part of a token
        (["a\nb", "c", "\n", "d"], [0, 2, 3]),  # with text after it
        (["a\nb", "\n", "c"], [0, 1, 2]),
        (["\na", "\n", "b"], [1, 2]),  # text after a line break that ended nothing
        (["\na\n", "b"], [0, 1]),
        (["a", "b", "c"], [2]),  # no line break
        (["a"], [0]),
        (["\n"], [0]),
        (["a", "\n"], [1]),  # the last is named once
        (["a", "\n", ""], [2]),  # a turn end after a line break is no step
        (["a\nb", "\n", "\n", ""], [0, 3]),
        (["a", "\nb"], [1]),  # a line break and more in the last token
        (["a\nb"], [0]),
    ],
)
def test_steps_end_at_the_first_line_break_after_text_and_at_the_end(tokens, ends):
    assert step_ends(list(range(len(tokens))), lambda ids: "".join(tokens[token] for token in ids)) == ends


def test_an_answers_worst_step_is_each_heads_own_in_deviations_of_worst_steps():
    steps = [[1.0, 4.0], [-2.0, 5.0], [0.0, 3.0]]
    info = RewardInfo("process", 2, "base", "digest", "template", (0.0, 0.0), (1.0, 1.0))
    assert worst_step(steps, info) == [-2.0, 3.0]
    assert worst_step(steps, replace(info, worst_mean=(-1.0, 1.0), worst_std=(0.5, 4.0))) == [-2.0, 0.5]
