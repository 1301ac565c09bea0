"""Adapters in real Ray Train workers: what a kill changes (nothing), what several workers change, and what is noted."""

import json
import math
from dataclasses import replace

import pytest
import torch

from components.config import UserError
from components.data.chat import ChatTemplate
from components.models import shifted
from components.models.adapter_base import AdapterBase
from components.models.adapters import AdapterConfig
from components.models.folder import digest
from components.models.load import load_model
from components.training import job
from components.training.deepspeed import DeepSpeedConfig
from components.training.preference import preference_loop
from components.training.preference_losses import LossConfig
from components.training.preference_rows import with_reference
from components.training.reference import pair_ids, score_pairs
from components.training.reward import RewardLossConfig, pair_rows, reward_loop
from components.training.rows import tokenize
from components.training.settings import OptimConfig, Recipe, SaveConfig, ScaleConfig
from components.training.sft import demonstration_ids, sft_loop
from tests.components.training import worker_log
from tests.components.training.worker_log import Log

STEPS, BATCH, ROWS = 8, 4, 16
ADALORA = {"name": "adalora", "rank": 2, "adalora": {"start_rank": 4, "initial": 0.25, "final": 0.25}}


@pytest.fixture(scope="module", autouse=True)
def crosses_to_workers(ray_cluster):
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(worker_log)


def rows():
    prompts = [[{"role": "user", "content": f"Which function joins {number} path names?"}] for number in range(ROWS)]
    said = [{"role": "assistant", "content": "It joins path names [1]."}]
    unsaid = [{"role": "assistant", "content": "I don't know."}]
    names = ("pair_id", "prompt", "completion", "chosen", "rejected")
    return [
        dict(zip(names, (f"p{number}", prompt, said, said, unsaid), strict=True))
        for number, prompt in enumerate(prompts)
    ]


def recipe(adapter, workers=1, failures=0, steps=STEPS, stage=2, **optim):
    values = {"batch_size": BATCH, "micro_batch_size": 2, "learning_rate": 1e-2, "dtype": "float32", "warmup": 0}
    return Recipe(
        AdapterConfig(**adapter),
        OptimConfig(**(values | optim), epochs=steps * BATCH / ROWS),
        DeepSpeedConfig(stage=stage, param_persistence_threshold=0),
        ScaleConfig(workers=workers, cpus_per_worker=1, max_failures=failures),
        SaveConfig(every=3),
        seed=3,
    )


def train(loop, folder, model, how, data, log=None, **payload):
    log = log or Log(folder / "log.jsonl")
    figures = job.train(
        loop,
        how,
        model=model,
        train_rows=data,
        eval_rows=data if loop is not reward_loop else None,
        run_dir=folder,
        identity={"base_digest": digest(model)},
        payload={"run": log, **payload},
    )
    return figures, log


def train_sft(folder, model, how, log=None):
    data = tokenize(rows(), demonstration_ids(ChatTemplate.from_folder(model)), max_tokens=256, what="t")
    return train(sft_loop, folder, model, how, data, log)


def weights_of(folder):
    from safetensors.torch import load_file

    return load_file(job.trained_folder(folder) / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def uninterrupted(tiny_model_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adalora")
    figures, log = train_sft(folder, tiny_model_dir, recipe(ADALORA))
    return folder, figures, log


def test_the_run_says_what_it_took_and_on_what(uninterrupted, tiny_model_dir):
    """A block's layers have 64+64, 64+32, 64+32, 64+64 and thrice 64+128 rows and columns, and 4 directions each."""
    folder, figures, log = uninterrupted
    assert figures["cost/trained_parameters"] == 2 * (4 * (128 + 96 + 96 + 128 + 3 * 192) + 4 * 7)
    assert figures["cost/parameters"] == sum(w.numel() for w in load_model(tiny_model_dir, "float32").parameters())
    assert 0 < figures["cost/step_seconds"] < 60 and 1e8 < figures["cost/peak_memory_bytes"] < 1e11
    # Saved: float32 gradient, weight and moments of what is not trained, 16 bytes each; added: the adapter, 4 each.
    trained = figures["cost/trained_parameters"]
    saved = 16 * (figures["cost/parameters"] - trained) - 4 * trained
    assert figures["cost/planned_saved_bytes"] == saved
    assert figures["cost/planned_full_bytes"] == figures["cost/planned_bytes"] + saved
    page = AdapterBase.read(job.trained_folder(folder))
    assert page == AdapterBase(str(tiny_model_dir), digest(tiny_model_dir), "adalora")
    assert not (folder / "cost.json").exists() and log.losses()[STEPS] < log.losses()[1] - 0.1


def test_adalora_killed_and_resumed_is_adalora_uninterrupted(uninterrupted, tiny_model_dir, tmp_path):
    """It dies at step 5, where ranks are falling, and goes on from step 3 with the importances of then."""
    log = Log(tmp_path / "log.jsonl", dies_at=5)
    train_sft(tmp_path, tiny_model_dir, recipe(ADALORA, failures=1), log)
    assert log.path.with_suffix(".died").exists()
    folder, _, expected = uninterrupted
    assert log.losses() == expected.losses()
    own, other = weights_of(tmp_path), weights_of(folder)
    assert own.keys() == other.keys() and all(torch.equal(own[name], other[name]) for name in own)


def test_full_steps_are_measured_and_cost_neither_the_adapter_nor_a_second_training(tiny_model_dir, tmp_path, caplog):
    """They fail first, which leaves the folder as a kill would; the same job then measures them and trains nothing."""
    how = replace(recipe({"name": "lora", "rank": 4}, steps=4), full_steps=3)
    data = tokenize(rows(), demonstration_ids(ChatTemplate.from_folder(tiny_model_dir)), max_tokens=256, what="t")
    with caplog.at_level("WARNING"):
        failed, log = train(worker_log.too_large_without_adapter, tmp_path, tiny_model_dir, how, data)
    assert failed["cost/full_failed"] == 1 and "cost/full_step_seconds" not in failed
    assert "full fine-tuning could not be measured" in caplog.text and "this worker is full" in caplog.text
    trained = weights_of(tmp_path)
    left = tmp_path / "full" / "checkpoints"  # of one that was killed
    left.mkdir(parents=True)
    (left / "identity.json").write_text('{"workers": "7"}')

    figures, log = train(sft_loop, tmp_path, tiny_model_dir, how, data)
    steps = [json.loads(line)["step"] for line in log.path.read_text().splitlines()]
    assert steps == [1, 2, 3, 4]  # the adapter's, once
    own = ("cost/step_seconds", "cost/peak_memory_bytes", "cost/trained_parameters")
    assert {name: figures[name] for name in own} == pytest.approx({name: failed[name] for name in own}, rel=0.05)
    assert figures["cost/step_seconds"] == failed["cost/step_seconds"]
    assert figures["cost/full_trained_parameters"] == figures["cost/parameters"] > figures["cost/trained_parameters"]
    assert 0 < figures["cost/full_step_seconds"] < 60 and 1e8 < figures["cost/full_peak_memory_bytes"] < 1e11
    for name, saved in (("step_seconds", "step_seconds"), ("peak_memory_bytes", "memory_bytes")):
        assert figures[f"cost/saved_{saved}"] == figures[f"cost/full_{name}"] - figures[f"cost/{name}"]
    assert "cost/full_failed" not in figures
    assert sorted(path.name for path in tmp_path.iterdir()) == [".trained", "checkpoints", "log.jsonl", "rows"]
    again = weights_of(tmp_path)
    assert trained.keys() == again.keys() and all(torch.equal(trained[name], again[name]) for name in trained)


@pytest.mark.exhaustive
def test_two_workers_take_the_same_ranks_away(uninterrupted, tiny_model_dir, tmp_path):
    _, log = train_sft(tmp_path, tiny_model_dir, recipe(ADALORA, workers=2))
    folder, _, expected = uninterrupted
    assert log.losses() == pytest.approx(expected.losses(), rel=1e-3)
    own, other = weights_of(tmp_path), weights_of(folder)
    assert {name: weight.shape for name, weight in own.items()} == {
        name: weight.shape for name, weight in other.items()
    }


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["loraplus", "dora", "rslora"])
def test_sharded_weights_give_the_same_losses(tiny_model_dir, tmp_path, name):
    losses = []
    for workers, stage in ((1, 2), (2, 3)):
        folder = tmp_path / str(stage)
        folder.mkdir()
        how = recipe({"name": name, "rank": 4}, workers=workers, stage=stage, steps=3)
        losses.append(train_sft(folder, tiny_model_dir, how)[1].losses())
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


def test_qlora_trains_with_preferences_and_starts_where_its_base_is(tiny_model_dir, tmp_path):
    """The 4-bit base is its own reference, so that the first loss is ln 2."""
    template = ChatTemplate.from_folder(tiny_model_dir)
    pairs = tokenize(rows(), pair_ids(template), max_tokens=256, what="t")
    scores = score_pairs(load_model(tiny_model_dir, "float32", nf4=True), pairs.rows, 2, 2048)
    known = {row["pair_id"]: score for row, score in zip(pairs.rows, scores, strict=True)}
    how = recipe({"name": "qlora", "rank": 4}, steps=3)
    data = with_reference(pairs, known)
    _, log = train(preference_loop, tmp_path, tiny_model_dir, how, data, loss=LossConfig().model_dump(), paired=True)
    assert log.losses()[1] == pytest.approx(math.log(2), abs=1e-3) and log.losses()[3] < 0.69
    assert AdapterBase.read(job.trained_folder(tmp_path)).quantization == "nf4"


@pytest.mark.parametrize(
    "adapter",
    [
        {"name": "longlora", "longlora": {"group_tokens": 8}},
        *(pytest.param(adapter, marks=pytest.mark.exhaustive) for adapter in ({"name": "qlora"}, ADALORA)),
    ],
)
def test_rewards_are_learned_too(tiny_model_dir, tmp_path, adapter):
    from components.models.rewards import RewardInfo, RewardModel

    template, config = ChatTemplate.from_folder(tiny_model_dir), RewardLossConfig()
    data = tokenize(rows(), pair_rows(template, config, 0), max_tokens=256, what="t")
    rate = 1e-3 if adapter["name"] == "longlora" else 1e-2  # embeddings and norms bear less
    how = recipe({"rank": 4} | adapter, steps=6, learning_rate=rate)
    _, log = train(reward_loop, tmp_path, tiny_model_dir, how, data, loss=config.model_dump(), kind="outcome")
    assert log.losses()[6] < log.losses()[1] - 0.01
    folder = job.trained_folder(tmp_path)
    info = RewardInfo("outcome", 1, str(tiny_model_dir), digest(tiny_model_dir), template.digest, (0.0,), (1.0,))
    info.write(folder)
    loaded = RewardModel(folder, dtype="float32", device="cpu")
    if adapter["name"] == "longlora":  # what two layers learn in groups of 8 tokens does not carry over to whole rows
        shifted.attach(loaded.model, 8)
        loaded.whole.train()
    row = data.rows[0]
    scores = loaded.score([row["prompt_ids"]], [[row["chosen_ids"], row["rejected_ids"]]])[0]
    assert scores[0][0] > scores[1][0]


def test_what_a_model_or_a_run_does_not_allow_is_refused_before_workers_start(tiny_model_dir, tmp_path):
    with pytest.raises(UserError, match="no step to shrink at in a run of 2"):
        train_sft(tmp_path, tiny_model_dir, recipe(ADALORA, steps=2))
    windowed = tmp_path / "model"
    windowed.mkdir()
    for path in tiny_model_dir.iterdir():
        (windowed / path.name).write_bytes(path.read_bytes())
    config = json.loads((windowed / "config.json").read_text())
    (windowed / "config.json").write_text(json.dumps(config | {"sliding_window": 64}))
    with pytest.raises(UserError, match="a sliding window of 64 tokens"):
        train_sft(tmp_path, windowed, recipe({"name": "longlora"}))
