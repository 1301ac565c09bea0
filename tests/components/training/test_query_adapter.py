"""A map of query vectors: its loss by hand, what it learns and what it must not, and what a kill changes (nothing)."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from components.models.adapters import AdapterConfig
from components.models.query_adapter import Examples, QueryAdapter
from components.training import job, query_adapter
from components.training.checkpoints import MARKER
from components.training.deepspeed import DeepSpeedConfig
from components.training.query_adapter import QueryAdapterConfig, QueryAdapterOptimConfig
from components.training.rows import write_rows
from components.training.settings import Recipe, SaveConfig, ScaleConfig, trainer_arguments
from tests.components.training import worker_log
from tests.components.training.worker_log import Log

D, QUESTIONS, PASSAGES = 12, 120, 6
POISON = 1e6


def units(count: int, seed: int) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def rotation() -> np.ndarray:
    turned, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(D, D)))
    return turned.astype(np.float32)


def examples(count: int = QUESTIONS, *, seed: int = 0, shuffled: bool = False) -> Examples:
    """Questions whose answer is their own vector, turned; shuffled, any passage of the list is called the answer."""
    queries = units(count, seed)
    answers, others = queries @ rotation().T, units(count * (PASSAGES - 1), seed + 1)
    rng, rows = np.random.default_rng(seed + 2), []
    for number in range(count):
        wrong = range(count + number * (PASSAGES - 1), count + (number + 1) * (PASSAGES - 1))
        labels = [1.0] + [0.0] * (PASSAGES - 1)
        if shuffled:
            rng.shuffle(labels)
        rows.append({"query": number, "passages": [number, *wrong], "labels": labels})
    return Examples(rows, queries, np.concatenate([answers, others]))


def recipe(epochs: float, **changes) -> Recipe:
    optim = QueryAdapterOptimConfig(
        epochs=epochs, batch_size=8, micro_batch_size=4, learning_rate=2e-2, warmup=0, weight_decay=0.0
    )
    scale = ScaleConfig(cpus_per_worker=1, max_failures=0)
    parts = {"deepspeed": DeepSpeedConfig(), "scale": scale, "save": SaveConfig(every=2), "seed": 3}
    return Recipe(AdapterConfig(name="none"), optim, **(parts | changes))


def of_passes(micro: int) -> dict:
    return {"per_device_train_batch_size": micro, "gradient_accumulation_steps": 8 // micro}


def learned(folder: Path, data: Examples, steps: int, micro: int = 4) -> QueryAdapter:
    """Train in this process, without Ray and DeepSpeed."""
    files = {"queries": folder / "queries.npy", "passages": folder / "passages.npy"}
    np.save(files["queries"], data.queries_QD)
    np.save(files["passages"], data.passages_PD)
    how = recipe(1)
    arguments = trainer_arguments(how, bf16=False, steps=steps, checkpoints=folder / "checkpoints")
    order = [data.rows[number % len(data.rows)] for number in range(steps * 8)]
    payload = {
        "arguments": arguments | {"deepspeed": None, "save_strategy": "no"} | of_passes(micro),
        "train": write_rows(order, folder / "rows.parquet"),
        "vectors": {name: str(path) for name, path in files.items()},
        "temperature": 0.1,
    }
    trainer = query_adapter.make_trainer(payload, [])
    if steps:
        trainer.train()
    trainer.save_model(str(folder / "trained"))
    query_adapter.finish(folder / "trained", "the embedder")
    return QueryAdapter.read(folder / "trained")


def right(adapter: QueryAdapter, data: Examples) -> float:
    """Return the share of questions whose own turned vector is the closest of their passages."""
    hits = []
    for number, row in enumerate(data.rows):
        scores = data.passages_PD[row["passages"]] @ adapter.apply(data.queries_QD[number])
        hits.append(int(np.argmax(scores)) == 0)
    return sum(hits) / len(hits)


def test_a_learnable_map_is_learned_and_shuffled_labels_teach_nothing(tmp_path: Path) -> None:
    """Of six passages one is right by chance; held-out questions are drawn by another seed."""
    held_out = examples(seed=100)
    identity = QueryAdapter(np.eye(D, dtype=np.float32), "the embedder")
    before = right(identity, held_out)
    for shuffled in (False, True):
        folder = tmp_path / str(shuffled)
        folder.mkdir()
        after = right(learned(folder, examples(shuffled=shuffled), steps=90), held_out)
        assert (after > 0.9 > before + 0.5) if not shuffled else after < 0.4


def test_how_a_batch_is_split_makes_no_difference(tmp_path: Path) -> None:
    for name in ("2", "8"):
        (tmp_path / name).mkdir()
    split, whole = (learned(tmp_path / str(n), examples(24), steps=3, micro=n).matrix_DD for n in (2, 8))
    np.testing.assert_allclose(split, whole, atol=1e-5)


def test_before_its_first_step_the_map_is_the_identity(tmp_path: Path) -> None:
    adapter = learned(tmp_path, examples(8), steps=0)
    np.testing.assert_array_equal(adapter.matrix_DD, np.eye(D, dtype=np.float32))
    assert adapter.embedder == "the embedder"
    assert sorted(path.name for path in (tmp_path / "trained").iterdir()) == [
        "matrix.safetensors",
        "query_adapter.json",
        "training_args.bin",  # which a worker removes
    ]


def test_the_loss_is_that_of_a_loop_and_padding_does_not_count() -> None:
    """A list of three passages beside one of two; the third place of the latter holds poison."""
    scores = torch.tensor([[1.0, 0.5, -1.0], [0.2, 0.7, POISON]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, -1.0]], dtype=torch.float64)
    expected = 0.0
    for own, mark in ((scores[0].tolist(), (1, 0, 1)), (scores[1].tolist()[:2], (0, 1))):
        share = sum(math.exp(s) for s, m in zip(own, mark, strict=True) if m) / sum(math.exp(s) for s in own)
        expected -= math.log(share) / 2
    assert float(query_adapter.ranking_loss(scores, labels).detach()) == pytest.approx(expected, rel=1e-12)
    query_adapter.ranking_loss(scores, labels).backward()
    assert scores.grad[1, 2] == 0 and torch.isfinite(scores.grad).all()
    inner = torch.tensor([[1.0, 0.5, -1.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: query_adapter.ranking_loss(s, labels[:1]), (inner,))


def test_without_knowledge_the_loss_is_the_log_of_how_many_passages_there_are() -> None:
    scores, labels = torch.zeros(3, 6), torch.zeros(3, 6)
    labels[:, 2] = 1.0
    assert float(query_adapter.ranking_loss(scores, labels)) == pytest.approx(math.log(6))


def test_lists_of_unlike_length_are_padded() -> None:
    queries, passages = units(2, 0), units(5, 1)
    rows = [
        {"query": 1, "passages": [4, 0, 2], "labels": [1.0, 0.0, 0.0]},
        {"query": 0, "passages": [3], "labels": [1.0]},
    ]
    batch = query_adapter.collate(rows, queries, passages)
    np.testing.assert_array_equal(batch["asked_BD"], queries[[1, 0]])
    np.testing.assert_array_equal(batch["found_BND"][0], passages[[4, 0, 2]])
    np.testing.assert_array_equal(batch["found_BND"][1, 0], passages[3])
    assert batch["labels_BN"].tolist() == [[1.0, 0.0, 0.0], [1.0, -1.0, -1.0]]


class Owner:
    """A run, as far as training asks for one."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.dir, self.cache, self.log = folder, folder, log

    def handle(self) -> Log:
        return self.log


def on_ray(folder: Path, log: Log) -> QueryAdapter:
    data = examples(24)
    how, config = recipe(6 * 8 / 24), QueryAdapterConfig(temperature=0.1)
    query_adapter.train(data, config, how, embedder="e", run=Owner(folder, log), index="db#passages@1")
    return QueryAdapter.read(job.trained_folder(folder))


@pytest.mark.exhaustive
def test_an_interrupted_training_ends_as_an_uninterrupted_one(ray_cluster, tmp_path: Path) -> None:
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(worker_log)
    folders = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        folder.mkdir()
    expected_log, log = Log(folders[0] / "log.jsonl"), Log(folders[1] / "log.jsonl", dies_at=5)
    expected = on_ray(folders[0], expected_log)
    with pytest.raises(Exception, match=r"died|killed|Failed|failed|unavailable"):
        on_ray(folders[1], log)
    assert (folders[1] / "checkpoints" / "checkpoint-4" / MARKER).is_file()
    found = on_ray(folders[1], log)
    assert log.curve("train/loss") == expected_log.curve("train/loss")
    np.testing.assert_array_equal(found.matrix_DD, expected.matrix_DD)
    assert len(log.path.read_text().splitlines()) == 5 + 2  # steps 1-5, then 5 and 6 from checkpoint 4
    assert (
        not np.array_equal(found.matrix_DD, np.eye(D))
        and not (job.trained_folder(folders[1]) / "model.safetensors").exists()
    )
