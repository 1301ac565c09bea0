"""Puts found passages in order by a model that reads question and passage together."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from components.config import UserError
from components.models.load import torch_device

if TYPE_CHECKING:
    import numpy as np


def as_read(title: str, text: str) -> str:
    """Return a passage as rerankers read it, whether they learn or rank."""
    return f"{title}\n{text}"


class Reranker:
    """A loaded cross-encoder with one output; calls from several threads take turns."""

    def __init__(self, folder: str | Path, batch_size: int = 32) -> None:
        """Load the model.

        Raises:
            UserError: the folder holds no sequence classifier, or one with several outputs.
        """
        from sentence_transformers import CrossEncoder

        if not (Path(folder) / "config.json").is_file():
            raise UserError(f"{folder} is no model that can rerank: it has no config.json")
        self._batch_size = batch_size
        self._lock = threading.Lock()  # the tokenizer may not be borrowed twice
        self._model = CrossEncoder(str(folder), device=torch_device(), local_files_only=True)
        if self._model.num_labels != 1:
            raise UserError(
                f"{folder} has {self._model.num_labels} outputs: a reranker has one, the relevance of the passage"
            )

    def scores(self, query: str, texts: Sequence[str]) -> "np.ndarray":
        """Return how relevant each text is to the query: float32 [n], unbounded, more is better."""
        import torch

        with self._lock:
            logits = self._model.predict(
                [(query, text) for text in texts],
                batch_size=self._batch_size,
                show_progress_bar=False,
                activation_fn=torch.nn.Identity(),
                convert_to_numpy=True,
            )
        return logits.astype("float32")
