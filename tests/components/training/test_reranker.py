"""Cross-encoders: what they can start from, the loss by hand, what they learn, and what a kill changes (nothing)."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from components.config import UserError
from components.models.adapters import AdapterConfig
from components.retrieval.rerank import Reranker
from components.training import job, reranker
from components.training.checkpoints import MARKER
from components.training.deepspeed import DeepSpeedConfig
from components.training.reranker import CrossEncoderConfig, CrossEncoderOptimConfig
from components.training.rows import write_rows
from components.training.settings import Recipe, SaveConfig, ScaleConfig, trainer_arguments
from tests.components.retrieval.tiny_embedder import make_tiny_embedder
from tests.components.training import worker_log
from tests.components.training.worker_log import Log

SUBJECTS = [f"thing{number}" for number in range(60)]
EDITIONS = ("current", "former", "draft", "void")
MAX_TOKENS = 32


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = [*SUBJECTS, *EDITIONS, "what", "does", "do", "the", "edition", "of"]
    return make_tiny_embedder(tmp_path_factory.mktemp("encoder"), words)


def rows(subjects: list[str], *, shuffled: bool = False) -> list[dict]:
    """Questions that the current edition answers; shuffled, any edition is called the answer, in turn."""
    made = []
    for number, subject in enumerate(subjects):
        first = number % len(EDITIONS) if shuffled else 0
        editions = [*EDITIONS[first:], *EDITIONS[:first]]
        made.append(
            {
                "question": f"what does the {subject} do",
                "texts": [f"{subject}\nthe {edition} edition of the {subject}" for edition in editions],
                "labels": [1.0, 0.0, 0.0, 0.0],
            }
        )
    return made


def recipe(epochs: float, **changes) -> Recipe:
    optim = CrossEncoderOptimConfig(epochs=epochs, batch_size=8, micro_batch_size=4, learning_rate=5e-3, warmup=0)
    scale = ScaleConfig(cpus_per_worker=1, max_failures=0)
    parts = {"deepspeed": DeepSpeedConfig(), "scale": scale, "save": SaveConfig(every=2), "seed": 3}
    return Recipe(AdapterConfig(name="none"), optim, **(parts | changes))


def payload_of(folder: Path, encoder: Path, made: list[dict], steps: int, loss: str = "lambda") -> dict:
    listed = reranker.listed_rows(made, encoder, MAX_TOKENS).rows
    arguments = trainer_arguments(recipe(1), bf16=False, steps=steps, checkpoints=folder / "checkpoints")
    return {
        "model": str(encoder),
        "dtype": "float32",
        "arguments": arguments | {"deepspeed": None, "save_strategy": "no"},
        "train": write_rows([listed[n % len(listed)] for n in range(steps * 8)], folder / "rows.parquet"),
        "loss": loss,
        "max_tokens": MAX_TOKENS,
    }


def trained(folder: Path, encoder: Path, made: list[dict], steps: int, loss: str = "lambda") -> Reranker:
    """Train in this process, without Ray and DeepSpeed, and load what was saved as a search does."""
    torch.manual_seed(0)
    trainer = reranker.make_trainer(payload_of(folder, encoder, made, steps, loss), [])
    trainer.train()
    trainer.save_model(str(folder / "trained"))
    return Reranker(folder / "trained")


def right(model: Reranker, subjects: list[str]) -> float:
    """Return the share of questions for which the current edition is ranked first."""
    hits = []
    for row in rows(subjects):
        scores = model.scores(row["question"], row["texts"])
        hits.append(int(scores.argmax()) == 0)
    return sum(hits) / len(hits)


@pytest.mark.parametrize("loss", ["lambda", "ranknet"])
def test_what_can_be_learned_is_learned_for_subjects_never_seen(tmp_path: Path, encoder: Path, loss: str) -> None:
    model = trained(tmp_path, encoder, rows(SUBJECTS[:40]), steps=40, loss=loss)
    assert right(model, SUBJECTS[40:]) > 0.95  # by chance: 0.25
    assert model._model.max_seq_length == MAX_TOKENS


def test_shuffled_labels_teach_nothing(tmp_path: Path, encoder: Path) -> None:
    model = trained(tmp_path, encoder, rows(SUBJECTS[:40], shuffled=True), steps=40)
    scores = [model.scores(row["question"], row["texts"]) for row in rows(SUBJECTS[40:])]
    leads = [float(own[0] - own[1:].mean()) for own in scores]
    assert abs(sum(leads) / len(leads)) < 1.0  # learned, the current edition leads by several


def test_the_first_loss_is_that_of_a_loop_over_pairs(tmp_path: Path, encoder: Path) -> None:
    """RankNet: the mean over (answer, other) of log2(1 + exp(-(score of answer - score of other)))."""
    made = rows(SUBJECTS[:4])
    payload = payload_of(tmp_path, encoder, made, 1, "ranknet")
    torch.manual_seed(0)
    trainer = reranker.make_trainer(payload, [])
    trainer.model.eval()  # without dropout
    listed = reranker.listed_rows(made, encoder, MAX_TOKENS).rows
    inputs = trainer.data_collator(listed)
    loss = float(trainer.compute_loss(trainer.model, inputs).detach())
    expected = []
    for row in listed:
        scores = [
            float(trainer.model.predict((row["query"], text), activation_fn=torch.nn.Identity()))
            for text in row["passages"]
        ]
        expected += [math.log2(1 + math.exp(-(scores[0] - other))) for other in scores[1:]]
    assert loss == pytest.approx(sum(expected) / len(expected), rel=1e-4)


def test_how_a_batch_is_split_makes_no_difference(tmp_path: Path, encoder: Path) -> None:
    """Without dropout, eight questions at once have the gradient of twice four, whose length is logged."""
    still = tmp_path / "still"
    shutil.copytree(encoder, still)
    config = json.loads((still / "config.json").read_text())
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (still / "config.json").write_text(json.dumps(config | off))
    lengths, weights = [], []
    for micro in (4, 8):
        torch.manual_seed(0)
        payload = payload_of(tmp_path, still, rows(SUBJECTS[:8]), 1)
        payload["arguments"] |= {"per_device_train_batch_size": micro, "gradient_accumulation_steps": 8 // micro}
        trainer = reranker.make_trainer(payload, [])
        trainer.train()
        lengths.append(next(entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry))
        weights.append(trainer.model.model.classifier.weight.detach().clone())
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)
    torch.testing.assert_close(weights[0], weights[1], atol=1e-4, rtol=1e-3)


def test_rows_come_in_their_order(tmp_path: Path, encoder: Path) -> None:
    trainer = reranker.make_trainer(payload_of(tmp_path, encoder, rows(SUBJECTS[:12]), 3), [])
    asked = [question for batch in trainer.get_train_dataloader() for question in batch["query"]]
    assert asked == [f"what does the {SUBJECTS[n % 12]} do" for n in range(24)]


def test_a_rows_length_is_what_is_computed_of_it(encoder: Path) -> None:
    """[CLS] what does the thing0 do [SEP] and a passage of 7 words: 7 + 7 + 1 tokens, four times; or cut to 10."""
    made = [rows(["thing0"])[0] | {"texts": ["the current edition of the thing0 thing0"] + ["the"] * 3}]
    assert reranker.listed_rows(made, encoder, MAX_TOKENS).lengths == [4 * 15]
    assert reranker.listed_rows(made, encoder, 10).lengths == [4 * 10]


def test_what_a_reranker_can_be_made_of(encoder: Path, tmp_path: Path) -> None:
    assert reranker.is_reranker(encoder, 128) is False
    with pytest.raises(UserError, match=r"reads 128 tokens: set cross_encoder\.max_tokens=128 or less"):
        reranker.is_reranker(encoder, 129)

    def changed(**values) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        (folder / "model.safetensors").write_bytes((encoder / "model.safetensors").read_bytes())
        config = json.loads((encoder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))
        return folder

    classifier = {"architectures": ["BertForSequenceClassification"]}
    assert reranker.is_reranker(changed(**classifier, id2label={"0": "LABEL_0"}), 128) is True
    for labels in ({}, {"id2label": {"0": "a", "1": "b", "2": "c"}}):
        with pytest.raises(UserError, match=r"classifies into [23] kinds"):
            reranker.is_reranker(changed(**classifier, **labels), 128)
    with pytest.raises(UserError, match=r"is a language model \(BertForCausalLM\)"):
        reranker.is_reranker(changed(architectures=["BertForCausalLM"]), 128)


def test_a_trained_reranker_keeps_its_head_when_it_is_trained_on(tmp_path: Path, encoder: Path) -> None:
    first = trained(tmp_path, encoder, rows(SUBJECTS[:40]), steps=40)
    folder = tmp_path / "trained"
    assert reranker.is_reranker(folder, MAX_TOKENS)
    again = reranker.start_model(str(folder), "float32", MAX_TOKENS, on_cpu=True).eval()
    row = rows(SUBJECTS[40:])[0]
    pairs = [(row["question"], text) for text in row["texts"]]
    scores = again.predict(pairs, activation_fn=torch.nn.Identity())
    assert scores == pytest.approx(first.scores(row["question"], row["texts"]), abs=1e-5)


class Owner:
    """A run, as far as training asks for one."""

    def __init__(self, folder: Path, log: Log) -> None:
        self.dir, self.cache, self.log = folder, folder, log

    def handle(self) -> Log:
        return self.log


def on_ray(folder: Path, encoder: Path, log: Log) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    config = CrossEncoderConfig(model=str(encoder), max_tokens=MAX_TOKENS)
    made = rows(SUBJECTS[:24])
    figures = reranker.train(
        made, config, recipe(6 * 8 / 24), model=encoder, run=Owner(folder, log), index="db#passages@1"
    )
    assert figures["steps"] == 6
    return load_file(job.trained_folder(folder) / "model.safetensors")


@pytest.mark.exhaustive
def test_an_interrupted_training_ends_as_an_uninterrupted_one(ray_cluster, encoder: Path, tmp_path: Path) -> None:
    """With dropout: what is drawn after the restart is what would have been drawn."""
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(worker_log)
    folders = tmp_path / "whole", tmp_path / "killed"
    for folder in folders:
        folder.mkdir()
    expected_log, log = Log(folders[0] / "log.jsonl"), Log(folders[1] / "log.jsonl", dies_at=5)
    expected = on_ray(folders[0], encoder, expected_log)
    with pytest.raises(Exception, match=r"died|killed|Failed|failed|unavailable"):
        on_ray(folders[1], encoder, log)
    assert (folders[1] / "checkpoints" / "checkpoint-4" / MARKER).is_file()
    found = on_ray(folders[1], encoder, log)
    assert log.curve("train/loss") == expected_log.curve("train/loss")
    assert expected.keys() == found.keys() and all(torch.equal(expected[name], found[name]) for name in expected)
    assert len(log.path.read_text().splitlines()) == 5 + 2  # steps 1-5, then 5 and 6 from checkpoint 4
    assert "train/tokens_per_s" not in json.loads(log.path.read_text().splitlines()[0])
