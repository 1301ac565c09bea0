"""Late interaction: question and passage have a vector for each token, and every token of the question seeks its like.

It puts candidates in order that a search has brought, as a cross-encoder does, for the price of an embedder: what
passages are does not depend on the question, so that their vectors are kept.

LanceDB could keep such vectors, too, in a column of lists of vectors, and search all of them. Passages of 100 tokens
took 154 KB each there instead of 1.5 KB, and a question to a thousand of them 2.6 s; the 20 candidates of a search took
1.6 to 2.4 s when they were new and 0.03 to 0.09 s when they were not (two busy cores, all-MiniLM-L6-v2). And only
without a vector index is it exact: with one, all its cells looked at, it found 6 of the 10 best of random passages.
"""

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import UserError
from components.models.load import torch_device, torch_dtype
from components.retrieval.embed import Dtype

if TYPE_CHECKING:
    import numpy as np

_KEPT_PASSAGES = 512  # of 100 tokens and 384 numbers each, these are 79 MB
_TRAINED_FOR_IT = ("MultiVectorEncoder", "ColBERT")  # the second is PyLate's name for it


class LateInteraction:
    """A loaded model with vectors of tokens; calls from several threads take turns.

    A ColBERT is used as it was trained, with its marks, its projection and its query expansion. Any other
    sentence-transformers model lends the vectors that it would have pooled, without those of its special tokens.
    """

    def __init__(self, folder: str | Path, dtype: Dtype = "auto", batch_size: int = 32) -> None:
        """Load the model.

        Raises:
            UserError: the folder holds none with vectors of tokens.
        """
        self._model = _encoder(Path(folder), dtype)
        self._batch_size = batch_size
        self._lock = threading.Lock()  # the tokenizer may not be borrowed twice
        self._kept: dict[str, Any] = {}  # text → vectors of its tokens, the one used last at the end

    def scores(self, query: str, texts: Sequence[str]) -> "np.ndarray":
        """Return how close each text comes to the query's tokens: float32 [n], in [-1, 1], more is better.

        It is sum_i max_j q_i · d_j over the query's tokens i and the text's tokens j, all of length 1, divided by the
        number of the query's tokens: that changes no order, and one threshold holds for short and long questions.
        Source: Khattab and Zaharia 2020, "ColBERT", equation 3.
        """
        with self._lock:
            asked = self._unit(self._model.encode_query, [query])
            own = {text: self._kept.pop(text, None) for text in texts}
            fresh = [text for text, vectors in own.items() if vectors is None]
            own |= zip(fresh, self._unit(self._model.encode_document, fresh), strict=True)
            self._kept |= own
            for text in list(self._kept)[:-_KEPT_PASSAGES]:
                del self._kept[text]
        found = self._model.similarity(asked, [own[text] for text in texts], length_normalize=True)
        return found[0].float().cpu().numpy()

    def _unit(self, encode: Any, texts: list[str]) -> list[Any]:
        """Return the tokens' vectors of each text [tokens, dimension], their length made 1 in float32."""
        import torch

        found = encode(texts, batch_size=self._batch_size, show_progress_bar=False)
        return [torch.nn.functional.normalize(vectors.float(), dim=-1) for vectors in found]


def compares_tokens(folder: str | Path) -> bool:
    """Return whether a folder holds an embedder or a ColBERT, and not a cross-encoder."""
    return _kind(Path(folder)) in ("SentenceTransformer", *_TRAINED_FOR_IT)


def _kind(folder: Path) -> str | None:
    """Return what sentence-transformers takes a folder for; None where it would have to guess."""
    settings = _json(folder / "config_sentence_transformers.json")
    if (folder / "modules.json").is_file():
        return settings.get("model_type", "SentenceTransformer")
    original = "HF_ColBERT" in (_json(folder / "config.json").get("architectures") or ())
    return "ColBERT" if original else settings.get("model_type")


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.is_file() else {}


def _encoder(folder: Path, dtype: Dtype) -> Any:
    """Return the loaded model; of one that was not trained for it, without the untrained projection it would get."""
    from sentence_transformers import MultiVectorEncoder, SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    options: dict[str, Any] = {"local_files_only": True, "device": torch_device()}
    options["model_kwargs"] = {"dtype": torch_dtype(dtype)}
    kind = _kind(folder)
    if kind in _TRAINED_FOR_IT:
        return MultiVectorEncoder(str(folder), **options).eval()
    pooled = SentenceTransformer(str(folder), **options) if kind == "SentenceTransformer" else None
    if pooled is None or not isinstance(pooled[0], Transformer):
        raise UserError(f"{folder} has no vectors of tokens: late interaction takes an embedder or a ColBERT")
    # Words that the tokenizer does not know stay: their vectors know what stands around them.
    marks = sorted(set(pooled.tokenizer.all_special_tokens) - {pooled.tokenizer.unk_token})
    mask = MultiVectorMask(skiplist_words=marks, skiplist_tasks=["query", "document"])
    return MultiVectorEncoder(modules=[pooled[0], mask], prompts=pooled.prompts, device=str(pooled.device)).eval()
