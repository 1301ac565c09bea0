"""Reward models through their real trainer: a training that was interrupted, or split otherwise, is the same one."""

import shutil

import pytest
import torch

from components.data.chat import ChatTemplate
from components.training.deepspeed import DeepSpeedConfig, build
from components.training.reward import RewardLossConfig, make_trainer, pair_rows, step_rows
from components.training.rows import tokenize, write_rows
from tests.components.training.preference_cases import ARGUMENTS, curves_in, weights
from tests.components.training.several_processes import Log

QUESTION = [{"role": "user", "content": "Which function joins path names?"}]
LOSS = RewardLossConfig(heads=2, margin=0.5, centering=0.1)


def said(text):
    return [{"role": "assistant", "content": text}]


def pairs(template):
    rows = [
        {
            "pair_id": f"p{number}",
            "prompt": QUESTION,
            "chosen": said("It joins path names [1]." * (1 + number % 3)),
            "rejected": said("I don't know." + " No." * (number % 5)),
            "chosen_score": 1.0,
            "rejected_score": 0.1 * number,
        }
        for number in range(8)
    ]
    return tokenize(rows, pair_rows(template, LOSS, 0), max_tokens=256, what="t").rows


def solutions(template):
    """Of one to three steps, so that batches differ in what their loss is divided by."""
    rows = []
    for number in range(8):
        steps = [{"text": f"2+{at} = {2 + at}", "label": float((number + at) % 2)} for at in range(1 + number % 3)]
        rows.append({"prompt": QUESTION, "steps": steps})
    return tokenize(rows, step_rows(template), max_tokens=256, what="t").rows


def payload_of(kind, adapter, model, folder, *, micro=4, passes=None):
    """Of four steps of four rows."""
    folder.mkdir(exist_ok=True, parents=True)
    template = ChatTemplate.from_folder(model)
    rows = pairs(template) if kind == "outcome" else solutions(template)
    passes = passes or 4 // micro
    shape = {"per_device_train_batch_size": micro, "gradient_accumulation_steps": passes, "max_steps": 4}
    return {
        "loss": LOSS.model_dump(),
        "kind": kind,
        "model": str(model),
        "dtype": "float32",
        "seed": 3,
        "adapter": adapter,
        "train": write_rows(rows * 2, folder / "rows.parquet"),
        "arguments": {**ARGUMENTS, **shape, "output_dir": str(folder / "checkpoints"), "learning_rate": 1e-3},
    }


def train(kind, adapter, model, folder, *, micro=4, resume=None):
    """The figures of four steps of four rows, and the weights after them."""
    log = Log()
    torch.manual_seed(3)  # of the adapter's weights, as prepare_worker sets it
    trainer = make_trainer(payload_of(kind, adapter, model, folder, micro=micro), [log])
    trainer.train(resume_from_checkpoint=resume)
    return log.steps, weights(trainer)


def losses_of(steps):
    return [step["train/loss"] for step in steps]


@pytest.mark.parametrize("kind", ["outcome", "process"])
@pytest.mark.parametrize("adapter", [{"name": "lora", "rank": 4, "alpha": 8.0}, {"name": "none"}], ids=["lora", "none"])
def test_interrupted_and_resumed_and_split_otherwise_it_is_the_same_training(kind, adapter, tiny_model_dir, tmp_path):
    steps, found = train(kind, adapter, tiny_model_dir, tmp_path / "whole")
    losses = losses_of(steps)
    assert len(losses) == 4 and losses[2] < losses[0] and losses[3] < losses[1]  # the same rows again

    checkpoint = tmp_path / "again" / "checkpoints" / "checkpoint-2"
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "checkpoint-2", checkpoint)
    resumed, again = train(kind, adapter, tiny_model_dir, tmp_path / "again", resume=str(checkpoint))
    assert losses_of(resumed) == losses[2:]
    assert again.keys() == found.keys() and all(torch.equal(again[name], found[name]) for name in found)

    split, _ = train(kind, adapter, tiny_model_dir, tmp_path / "by2", micro=2)
    assert losses_of(split) == pytest.approx(losses, rel=1e-3)


def test_two_processes_have_the_figures_of_one(tiny_model_dir, tmp_path):
    """Solutions of one to three steps: the processes' shares of a batch differ in what they are a mean over."""
    adapter = {"name": "none"}  # whose weights are not drawn
    alone = {kind: train(kind, adapter, tiny_model_dir, tmp_path / kind)[0] for kind in ("outcome", "process")}
    payloads = {
        kind: payload_of(kind, adapter, tiny_model_dir, tmp_path / "both" / kind, micro=2, passes=1) for kind in alone
    }
    both = curves_in(2, payloads, tmp_path / "both")
    for kind, steps in alone.items():
        assert any(name.startswith("rewards/") for name in steps[0])
        for one, two in zip(steps, both[kind], strict=True):
            names = [name for name in one if name.startswith(("train/loss", "rewards/"))]
            assert {name: two[name] for name in names} == pytest.approx({n: one[n] for n in names}, rel=1e-3, abs=2e-4)


def test_a_divided_model_learns_as_a_whole_one_does(tiny_model_dir, tmp_path):
    """ZeRO-3 divides its weights while they load, heads included, which start as they do on one worker."""
    alone, _ = train("outcome", {"name": "none"}, tiny_model_dir, tmp_path / "whole")
    zero = DeepSpeedConfig(stage=3, param_persistence_threshold=0)
    payload = payload_of("outcome", {"name": "none"}, tiny_model_dir, tmp_path / "three", micro=2, passes=1)
    payload["arguments"]["deepspeed"] = build(zero, bf16=False, max_grad_norm=1e9)
    divided = curves_in(2, {"three": payload}, tmp_path)["three"]
    assert [step["train/loss"] for step in divided] == pytest.approx(losses_of(alone), rel=1e-3)
