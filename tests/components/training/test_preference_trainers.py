"""Every preference loss through its real trainer: its value, its gradients, steps, splits, padding and resuming."""

import math
import shutil
from types import SimpleNamespace

import pytest
import torch

from components.models.load import load_model
from components.training.preference_losses import LossConfig, first_step_check
from tests.components.training.preference_cases import (
    LOSSES,
    is_paired,
    make_tables,
    trainer_of,
    weights,
)

every_loss = pytest.mark.parametrize("which", LOSSES)


@pytest.fixture(scope="module")
def tables(tiny_model_dir):
    return make_tables(tiny_model_dir)


# --- hand arithmetic, answer by answer -------------------------------------------------------------------------------


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def by_hand(which, policy, rows, kl=None):
    """The loss of rows from (sum, length) of each row's answers; ``kl``: sums of the answers that KTO's KL is of."""
    loss = LossConfig(**LOSSES[which])
    if loss.name == "kto":
        return kto_by_hand(loss, policy, rows, kl)
    total, nll = 0.0, [0.0, 0.0, 0.0]
    for row, ((chosen, chosen_length), (rejected, rejected_length)) in zip(rows, policy, strict=True):
        ref_chosen, ref_rejected = row.get("ref_chosen_logps", 0.0), row.get("ref_rejected_logps", 0.0)
        good, bad = chosen - ref_chosen, rejected - ref_rejected
        if loss.logprob == "mean":
            good, bad = good / chosen_length, bad / rejected_length
        x = loss.beta * (good - bad)
        right, wrong = -math.log(sigmoid(x)), -math.log(sigmoid(-x))
        if loss.name == "sigmoid":
            total += right
        elif loss.name == "conservative":
            total += 0.8 * right + 0.2 * wrong
        elif loss.name == "robust":
            total += (0.8 * right - 0.2 * wrong) / (0.6 if loss.normalised else 1.0)
        elif loss.name == "ipo":
            total += (good - bad - 1 / (2 * loss.beta)) ** 2
        elif loss.name == "hinge":
            total += max(0.0, 1 - x)
        elif loss.name == "simpo":
            total += -math.log(sigmoid(2 * good - 2 * bad - 1.0))
        elif loss.name == "orpo":
            p, q = math.exp(good), math.exp(bad)
            total += -0.1 * math.log(sigmoid(math.log(p / (1 - p)) - math.log(q / (1 - q))))
        nll = [nll[0] - chosen / chosen_length, nll[1] - chosen, nll[2] + chosen_length]
    own = nll[0] / len(rows) if loss.sft_mean == "answers" else nll[1] / nll[2]
    return total / len(rows) + (1.0 if loss.name == "orpo" else loss.sft) * own


def kto_by_hand(loss, policy, rows, kl):
    baseline = 0.0
    if loss.baseline != "zero":
        ratios = [
            p - r for row, own in zip(rows, kl, strict=True) for p, r in zip(own, row["ref_kl_logps"], strict=True)
        ]
        baseline = max(0.0, sum(ratios) / len(ratios))
    losses = []
    for row, answers in zip(rows, policy, strict=True):
        for (logp, _), ref, label in zip(answers, row["ref_logps"], row["labels"], strict=True):
            reward = logp - ref - baseline
            weight = loss.desirable if label else loss.undesirable
            losses.append(weight * (1 - sigmoid(loss.beta * (reward if label else -reward))))
    return sum(losses) / len(losses)


def sums(model, prompt, answer):
    """(sum of ln p, tokens) of an answer alone, from whole logits in float64."""
    ids = torch.tensor([[*prompt, *answer]])
    with torch.no_grad():
        logprobs = model(input_ids=ids).logits[0, :-1].double().log_softmax(-1)
    own = logprobs.gather(1, ids[0, 1:, None])[len(prompt) - 1 :]
    return own.sum().item(), len(answer)


def answers_of(row):
    return row.get("answers") or [row["chosen_ids"], row["rejected_ids"]]


@every_loss
def test_a_steps_loss_is_that_of_its_paper(which, tables, tiny_model_dir, tmp_path):
    """Log-probabilities from the model alone, one answer at a time, in float64; the reference is not the policy."""
    trainer, log, rows = trainer_of(which, tables, tiny_model_dir, tmp_path, micro=2, shift=3.0)
    trainer.train()
    model, first = load_model(tiny_model_dir, "float32"), rows[:4]
    policy = [[sums(model, row["prompt_ids"], answer) for answer in answers_of(row)] for row in first]
    kl = [[sums(model, row["prompt_ids"], answer)[0] for answer in row.get("kl_answers") or []] for row in first]
    assert log.steps[0]["train/loss"] == pytest.approx(by_hand(which, policy, first, kl), rel=2e-4, abs=1e-4)
    lengths = [len(answers_of(row)[0]) for row in first if row.get("labels", [True])[0]]
    assert log.steps[0]["completions/chosen_length"] == pytest.approx(sum(lengths) / len(lengths), abs=0.6)


def test_a_kl_below_0_counts_as_0(tables, tiny_model_dir, tmp_path):
    """The reference likes the mismatched answers better than the policy does, by 3 to 9 nats."""
    trainer, log, rows = trainer_of("kto", tables, tiny_model_dir, tmp_path, micro=2, shift=-3.0)
    trainer.train()
    assert log.steps[0]["train/kl_baseline"] == 0.0
    model, first = load_model(tiny_model_dir, "float32"), rows[:4]
    policy = [[sums(model, row["prompt_ids"], answer) for answer in row["answers"]] for row in first]
    none = kto_by_hand(LossConfig(name="kto", desirable=1.5, baseline="zero"), policy, first, None)
    assert log.steps[0]["train/loss"] == pytest.approx(none, rel=2e-4)


@every_loss
def test_gradients_are_those_of_finite_differences(which, tables, tiny_model_dir, tmp_path):
    """Of the whole of the trainer's loss, in float64, by each token's log-probability."""
    trainer, _, rows = trainer_of(which, tables, tiny_model_dir, tmp_path, shift=3.0)
    trainer.model.eval()
    batch = trainer.data_collator([dict(row) for row in rows[:3]])
    batch = {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}
    generator = torch.Generator().manual_seed(0)
    masks = {name: batch[f"{name}completion_mask"][:, 1:] for name in ("", "KL_") if f"{name}completion_mask" in batch}
    leaves = {name: -torch.rand(mask.shape, generator=generator).double() * 2 * mask for name, mask in masks.items()}

    def loss(log_probs):
        calls = ["KL_", ""] if "KL_" in leaves else [""]

        def model(**inputs):
            values = log_probs if (name := calls.pop(0)) == "" else leaves[name]
            zero = torch.zeros_like(values)
            return SimpleNamespace(log_probs=values * masks[name], entropy=zero, mean_logits=zero, is_top1=zero > 1)

        return trainer.compute_loss(model, batch)

    start = leaves[""].clone().requires_grad_()
    assert torch.autograd.gradcheck(loss, (start,), eps=1e-6, atol=1e-6)
    assert start.grad is None and loss(start).isfinite()


@every_loss
def test_the_first_step_holds_what_must_hold_and_trains(which, tables, tiny_model_dir, tmp_path):
    trainer, log, _ = trainer_of(which, tables, tiny_model_dir, tmp_path, steps=3)
    before = weights(trainer)
    trainer.train()
    loss = LossConfig(**LOSSES[which])
    check = first_step_check(loss, "float32", paired=is_paired(which))
    assert (check is None) == (loss.name in ("simpo", "orpo"))
    assert check is None or check(log.steps[0]) is None
    after = weights(trainer)
    assert all(not torch.equal(after[name], before[name]) for name in before)
    assert log.steps[0]["train/grad_norm"] > 0 and all(math.isfinite(v) for step in log.steps for v in step.values())
    assert {"rewards/chosen", "rewards/rejected", "rewards/margins", "logps/chosen"} <= set(log.steps[-1])
    assert "rewards/accuracies" in log.steps[-1] or which == "kto labelled"


@every_loss
def test_interrupted_and_resumed_and_split_otherwise_it_is_the_same_training(which, tables, tiny_model_dir, tmp_path):
    """Four steps of four rows; again from the checkpoint of the second; again by two and by one row at a time."""
    whole, log, _ = trainer_of(which, tables, tiny_model_dir, tmp_path / "whole", steps=4)
    whole.train()
    found = weights(whole)

    folder = tmp_path / "again"
    again, resumed, _ = trainer_of(which, tables, tiny_model_dir, folder, steps=4)
    checkpoint = folder / "checkpoints" / "checkpoint-2"
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "checkpoint-2", checkpoint)
    again.train(resume_from_checkpoint=str(checkpoint))
    assert [step["train/loss"] for step in resumed.steps] == [step["train/loss"] for step in log.steps[2:]]
    for name, value in weights(again).items():
        assert torch.equal(value, found[name]), name

    for micro in (2, 1):
        split, parts, _ = trainer_of(which, tables, tiny_model_dir, tmp_path / f"by{micro}", micro=micro, steps=4)
        split.train()
        for name in ("train/loss", "rewards/margins", "logps/chosen"):
            curve = [step[name] for step in log.steps]
            if is_paired(which) or name == "train/loss":  # TRL's means over labels are over passes that have one
                assert [step[name] for step in parts.steps] == pytest.approx(curve, rel=1e-3, abs=2e-4), name


@every_loss
def test_padding_is_not_read(which, tables, tiny_model_dir, tmp_path):
    trainer, _, rows = trainer_of(which, tables, tiny_model_dir, tmp_path, shift=3.0)
    trainer.model.eval()
    batch = trainer.data_collator([dict(row) for row in rows[:3]])
    poisoned = {}
    for name, value in batch.items():
        prefix = "KL_" if name.startswith("KL_") else ""
        if value.ndim == 2:
            value = torch.nn.functional.pad(value, (0, 5))
        if name.endswith("input_ids"):
            attention = torch.nn.functional.pad(batch[f"{prefix}attention_mask"], (0, 5))
            value = value.masked_fill(attention == 0, 300)
        poisoned[name] = value
    with torch.no_grad():
        clean, other = (trainer.compute_loss(trainer.model, one).item() for one in (batch, poisoned))
    assert other == pytest.approx(clean, abs=1e-5) and math.isfinite(clean)
