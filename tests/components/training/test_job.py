"""Whole training jobs of a tiny model in real Ray Train workers: what they learn, and what a kill changes (nothing)."""

import json
import math

import pytest
import torch

from components.data.chat import ChatTemplate
from components.models.adapters import AdapterConfig
from components.models.load import load_model
from components.training import job
from components.training.callbacks import Breach
from components.training.deepspeed import DeepSpeedConfig
from components.training.preference import preference_loop
from components.training.preference_losses import LossConfig
from components.training.preference_rows import with_reference
from components.training.reference import pair_ids, score_pairs
from components.training.rows import tokenize
from components.training.settings import OptimConfig, Recipe, SaveConfig, ScaleConfig
from components.training.sft import demonstration_ids, sft_loop
from tests.components.training import worker_log
from tests.components.training.worker_log import Log

STEPS, BATCH = 6, 8
LEARNING_RATE = 5e-3


@pytest.fixture(scope="module", autouse=True)
def crosses_to_workers(ray_cluster):
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(worker_log)


def message(role, content):
    return {"role": role, "content": content}


def demonstrations(count=30):
    return [
        {
            "prompt": [message("user", f"Which function joins {number} path names?" + " Please." * (number % 5))],
            "completion": [message("assistant", f"It joins path names [{number % 3 + 1}].")],
        }
        for number in range(count)
    ]


def recipe(**changes):
    optim = {
        "batch_size": BATCH,
        "micro_batch_size": 2,
        "learning_rate": LEARNING_RATE,
        "dtype": "float32",
        "warmup": 0,
    }
    parts = {
        "adapter": AdapterConfig(rank=4, alpha=8),
        "optim": OptimConfig(**(optim | changes.pop("optim", {})), epochs=STEPS * BATCH / 30),
        "deepspeed": DeepSpeedConfig(stage=changes.pop("stage", 2), param_persistence_threshold=0),
        "scale": ScaleConfig(
            workers=changes.pop("workers", 1), cpus_per_worker=1, max_failures=changes.pop("failures", 0)
        ),
        "save": SaveConfig(every=2),
        "seed": 3,
    }
    return Recipe(**(parts | changes))


def train_sft(folder, model, how, log=None, evaluate=False):
    template = ChatTemplate.from_folder(model)
    rows = tokenize(demonstrations(), demonstration_ids(template), max_tokens=256, what="t")
    log = log or Log(folder / "log.jsonl")
    figures = job.train(
        sft_loop,
        how,
        model=model,
        train_rows=rows,
        eval_rows=rows if evaluate else None,
        run_dir=folder,
        identity={"model": "tiny"},
        payload={"run": log},
    )
    return figures, log


def adapter_weights(folder):
    from safetensors.torch import load_file

    return load_file(job.trained_folder(folder) / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    figures, log = train_sft(folder, tiny_model_dir, recipe(), evaluate=True)
    return folder, figures, log


def test_sft_learns_and_reports(uninterrupted, tiny_model_dir):
    folder, figures, log = uninterrupted
    losses = log.curve("train/loss")
    assert list(losses) == [1, 2, 3, 4, 5, 6]
    assert losses[1] == pytest.approx(math.log(384), abs=0.5)  # an untrained model knows nothing of 384 tokens
    assert losses[6] < losses[1] - 0.3 and figures["eval/loss"] < losses[1]
    assert figures["steps"] == STEPS
    first = json.loads(log.path.read_text().splitlines()[0])
    assert {"train/grad_norm", "train/learning_rate", "train/tokens_per_s"} <= set(first)
    weights = adapter_weights(folder)
    assert all(weight.abs().sum() > 0 for name, weight in weights.items() if "lora_B" in name)
    attached = load_model(tiny_model_dir, "float32", job.trained_folder(folder))
    assert len(weights) == 2 * 7 * 2 and attached is not None  # A and B of seven layers in two blocks


def test_loss_of_the_first_step_is_that_of_transformers(uninterrupted, tiny_model_dir):
    """The mean over all completion tokens of the first batch, by transformers' own loss, one row at a time."""
    import pyarrow.parquet as pq

    folder, _, log = uninterrupted
    batch = pq.read_table(folder / "rows" / "train.parquet").to_pylist()[:BATCH]
    model = load_model(tiny_model_dir, "float32")
    total, tokens = 0.0, 0
    for row in batch:
        count = sum(label != -100 for label in row["labels"])
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        total += float(model(input_ids=ids, labels=labels).loss) * count
        tokens += count
    assert log.curve("train/loss")[1] == pytest.approx(total / tokens, rel=1e-4)


def test_a_killed_worker_is_replaced_and_nothing_else_changes(uninterrupted, tiny_model_dir, tmp_path):
    log = Log(tmp_path / "log.jsonl", dies_at=5)
    train_sft(tmp_path, tiny_model_dir, recipe(failures=1), log)
    assert log.path.with_suffix(".died").exists()
    assert_same(uninterrupted, tmp_path, log)
    assert len(log.path.read_text().splitlines()) == 5 + 2  # steps 1-5, then 5 and 6 from checkpoint 4


def test_a_job_that_died_goes_on_from_its_last_whole_checkpoint(uninterrupted, tiny_model_dir, tmp_path):
    log = Log(tmp_path / "log.jsonl", dies_at=6)
    with pytest.raises(Exception, match=r"died|killed|Failed|failed|unavailable"):
        train_sft(tmp_path, tiny_model_dir, recipe(), log)
    whole = tmp_path / "checkpoints" / "checkpoint-4"
    state = next(whole.rglob("*optim_states.pt"))
    state.write_bytes(state.read_bytes()[:-1])  # as if it had not been whole
    train_sft(tmp_path, tiny_model_dir, recipe(), log)
    assert_same(uninterrupted, tmp_path, log)
    assert len(log.path.read_text().splitlines()) == 6 + 4  # steps 1-6, then 3-6 from checkpoint 2


def assert_same(uninterrupted, folder, log):
    """The interrupted run's weights and losses are the uninterrupted one's, bit for bit."""
    expected_folder, _, expected_log = uninterrupted
    assert log.curve("train/loss") == expected_log.curve("train/loss")
    expected, found = adapter_weights(expected_folder), adapter_weights(folder)
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)


def test_two_workers_with_sharded_weights_compute_what_one_does(uninterrupted, tiny_model_dir, tmp_path):
    _, log = train_sft(tmp_path, tiny_model_dir, recipe(workers=2, stage=3))
    expected_folder, _, expected_log = uninterrupted
    for step, loss in expected_log.curve("train/loss").items():
        assert log.curve("train/loss")[step] == pytest.approx(loss, rel=1e-3)
    expected, found = adapter_weights(expected_folder), adapter_weights(tmp_path)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=2e-3, rtol=1e-2, msg=name)


def test_bfloat16_weights_do_not_lose_small_updates(tiny_model_dir, tmp_path):
    """Norm weights are 1.0, where bfloat16 counts in steps of 2^-7 upwards and 2^-8 downwards.

    AdamW moves them by about 1e-3 a step: less than half of either, so that without a float32 copy every
    update would be rounded away; six of them (6e-3 > 2^-9) show.
    """
    full = recipe(
        stage=0,
        adapter=AdapterConfig(name="none"),
        optim={"dtype": "bfloat16", "learning_rate": 1e-3, "schedule": "constant_with_warmup"},
    )
    train_sft(tmp_path, tiny_model_dir, full)
    trained = load_model(job.trained_folder(tmp_path), "float32")
    norms = torch.cat([weight for name, weight in trained.named_parameters() if "norm" in name])
    assert (norms != 1).float().mean() > 0.1
    assert (
        ChatTemplate.from_folder(job.trained_folder(tmp_path)).digest == ChatTemplate.from_folder(tiny_model_dir).digest
    )


def preferences(template, model, shift=0.0):
    rows = [
        {
            "pair_id": f"p{number}",
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": [message("assistant", "I don't know." + " No." * (number % 3))],
        }
        for number, row in enumerate(demonstrations())
    ]
    pairs = tokenize(rows, pair_ids(template), max_tokens=256, what="t")
    scores = score_pairs(load_model(model, "float32"), pairs.rows, 2, 2048)
    known = {
        row["pair_id"]: (chosen + shift, rejected) for row, (chosen, rejected) in zip(pairs.rows, scores, strict=True)
    }
    return with_reference(pairs, known)


def train_dpo(folder, model, pairs):
    log = Log(folder / "log.jsonl")
    figures = job.train(
        preference_loop,
        recipe(optim={"learning_rate": 1e-2}),
        model=model,
        train_rows=pairs,
        eval_rows=pairs,
        run_dir=folder,
        identity={"model": "tiny"},
        payload={"run": log, "loss": LossConfig().model_dump(), "paired": True},
    )
    return figures, log


def test_dpo_starts_at_ln_2_and_learns_to_prefer(tiny_model_dir, tmp_path):
    pairs = preferences(ChatTemplate.from_folder(tiny_model_dir), tiny_model_dir)
    figures, log = train_dpo(tmp_path, tiny_model_dir, pairs)
    assert log.curve("train/loss")[1] == pytest.approx(math.log(2), abs=1e-3)
    assert log.curve("rewards/margins")[1] == pytest.approx(0, abs=1e-3)
    assert log.curve("train/loss")[6] < 0.6 and figures["eval/rewards/accuracies"] > 0.9


def test_reference_of_another_model_stops_the_run_and_keeps_the_evidence(tiny_model_dir, tmp_path):
    """Chosen log-ratios are -20 where they must be 0: the loss is -ln sigmoid(0.1 * -20) = 2.127."""
    pairs = preferences(ChatTemplate.from_folder(tiny_model_dir), tiny_model_dir, shift=20.0)
    with pytest.raises(Breach, match=r"first sigmoid loss is 2\.12"):
        train_dpo(tmp_path, tiny_model_dir, pairs)
    evidence = json.loads((tmp_path / "evidence.json").read_text())
    assert evidence["step"] == 1 and evidence["train/loss"] == pytest.approx(2.127, abs=1e-2)
    assert not job.trained_folder(tmp_path).exists()
