"""Query adapters: the loop that each Ray Train worker runs to learn a linear map of query vectors.

Shapes: B questions of a batch, N passages of a question (padded), D numbers of a vector, Q questions, P passages.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.config import Config, Field
from components.models.query_adapter import Examples, QueryAdapter
from components.training.rows import Tokenized
from components.training.settings import OptimConfig, Recipe

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import Trainer

    from components.tracking.run import Run

_ABSENT = -1.0  # label of a place that pads a question's list of passages


class QueryAdapterOptimConfig(OptimConfig):
    """How the map is updated; a row is a question with all its passages."""

    epochs: float = Field(20.0, gt=0, description="passes over the training questions; rounded to whole steps")
    batch_size: int = Field(32, ge=1, description="questions of one optimizer step, over all workers")
    micro_batch_size: int = Field(32, ge=1, description="questions of one forward pass of one worker")
    learning_rate: float = Field(1e-3, gt=0, description="peak learning rate of AdamW")
    weight_decay: float = Field(0.01, ge=0, description="decay of the map towards the identity")
    dtype: Literal["auto", "bfloat16", "float32"] = Field("float32", description="number format of the map")


class QueryAdapterConfig(Config):
    """How a map of query vectors learns."""

    temperature: float = Field(0.05, gt=0, description="cosines are divided by it before their softmax")
    optim: QueryAdapterOptimConfig = Field(QueryAdapterOptimConfig(), description="how the map is updated")


def train(
    examples: Examples, config: QueryAdapterConfig, recipe: Recipe, *, embedder: str, run: "Run", index: str
) -> dict[str, float]:
    """Train on Ray Train workers and return the figures; the adapter lies in ``job.trained_folder``.

    Args:
        embedder: digest of what made the vectors.
        index: pinned reference of the index that they are of.

    Raises:
        UserError: as ``job.train``.
        Breach: a figure of training was not finite.
    """
    import numpy as np

    from components.training import job

    seen = hashlib.sha256(json.dumps(examples.rows).encode())
    files = {"queries": run.dir / "rows" / "queries.npy", "passages": run.dir / "rows" / "passages.npy"}
    for name, vectors in (("queries", examples.queries_QD), ("passages", examples.passages_PD)):
        files[name].parent.mkdir(parents=True, exist_ok=True)
        np.save(files[name], vectors)
        seen.update(vectors.tobytes())
    figures = job.train(
        adapter_loop,
        recipe,
        model=None,
        train_rows=Tokenized(examples.rows, [len(row["passages"]) for row in examples.rows], 0),
        eval_rows=None,
        run_dir=run.dir,
        identity={
            "table": index,
            "embedder": embedder,
            "rows": seen.hexdigest()[:16],
            "temperature": str(config.temperature),
        },
        payload={
            "run": run.handle(),
            "vectors": {name: str(path) for name, path in files.items()},
            "temperature": config.temperature,
        },
    )
    finish(job.trained_folder(run.dir), embedder)
    return figures


def finish(folder: Path, embedder: str) -> None:
    """Make what the trainer saved a query adapter: the identity plus what was learned."""
    import numpy as np
    from safetensors.torch import load_file

    saved = folder / "model.safetensors"
    learned_DD = load_file(saved)["learned_DD"].float().numpy()
    QueryAdapter(np.eye(len(learned_DD), dtype=np.float32) + learned_DD, embedder).write(folder)
    saved.unlink()


def adapter_loop(payload: dict[str, Any]) -> dict[str, Any]:
    """Train on this worker until done; return the final figures, or the invariant that broke.

    Payload: as ``sft_loop``'s, with ``vectors`` (files of the queries' and the passages') and ``temperature``.
    """
    from components.training.launch import prepare_worker

    prepare_worker(payload)
    from components.training.callbacks import make_callback
    from components.training.save import run_and_save

    callback = make_callback(payload["run"], Path(payload["evidence"]))
    return run_and_save(make_trainer(payload, [callback]), callback, payload)


def make_trainer(payload: dict[str, Any], callbacks: list[Any]) -> "Trainer":
    """Return transformers' trainer of the map, which is the identity before its first step."""
    import numpy as np
    from transformers import PrinterCallback, Trainer, TrainingArguments

    from components.training.rows import read_rows

    arguments = {name: value for name, value in payload["arguments"].items() if name != "max_length"}  # that is TRL's
    queries, passages = (np.load(payload["vectors"][name], mmap_mode="r") for name in ("queries", "passages"))
    trainer = Trainer(
        model=_make_map(queries.shape[1], payload["temperature"]),
        args=TrainingArguments(**arguments, remove_unused_columns=False),
        train_dataset=read_rows(payload["train"]),
        data_collator=lambda rows: collate(rows, queries, passages),
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def collate(
    rows: Sequence[Mapping[str, Any]], queries_QD: "np.ndarray", passages_PD: "np.ndarray"
) -> dict[str, "torch.Tensor"]:
    """Return the vectors of a batch; where a question has fewer passages than another, label -1 marks the padding."""
    import numpy as np
    import torch

    longest = max(len(row["passages"]) for row in rows)
    found_BND = np.zeros((len(rows), longest, passages_PD.shape[1]), dtype=np.float32)
    labels_BN = np.full((len(rows), longest), _ABSENT, dtype=np.float32)
    for number, row in enumerate(rows):
        found_BND[number, : len(row["passages"])] = passages_PD[row["passages"]]
        labels_BN[number, : len(row["labels"])] = row["labels"]
    asked_BD = np.array(queries_QD[[row["query"] for row in rows]])
    batch = {"asked_BD": asked_BD, "found_BND": found_BND, "labels_BN": labels_BN}
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def ranking_loss(scores_BN: "torch.Tensor", labels_BN: "torch.Tensor") -> "torch.Tensor":
    """Return the mean over questions of -ln(the share that answers have in the softmax of all scores).

    Source: InfoNCE, van den Oord et al. 2018 (arXiv 1807.03748) equation 4, summed over the answers.
    """
    known = scores_BN.masked_fill(labels_BN == _ABSENT, -float("inf"))
    answers = scores_BN.masked_fill(labels_BN != 1.0, -float("inf"))
    return (known.logsumexp(1) - answers.logsumexp(1)).mean()


def _make_map(dimension: int, temperature: float) -> "torch.nn.Module":
    """Return the module that is trained: identity + ``learned_DD``, so that weight decay leads to the identity."""
    import torch
    from torch.nn.functional import normalize

    class QueryMap(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.learned_DD = torch.nn.Parameter(torch.zeros(dimension, dimension))

        def forward(
            self, asked_BD: torch.Tensor, found_BND: torch.Tensor, labels_BN: torch.Tensor
        ) -> dict[str, torch.Tensor]:
            mapped_BD = normalize(asked_BD + asked_BD @ self.learned_DD.float().T, dim=1)
            cosines_BN = torch.einsum("bd,bnd->bn", mapped_BD, normalize(found_BND, dim=2))
            return {"loss": ranking_loss(cosines_BN / temperature, labels_BN)}

    return QueryMap()
