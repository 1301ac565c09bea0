"""How close a question is to each of many texts, by the embedder that the index uses."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

_SETS = 8  # of texts whose vectors are kept: those of the declared names


class Similarity:
    """Cosines between a question and texts; the texts, a name's examples, are embedded once."""

    def __init__(self, embed: Callable[[list[str]], Awaitable[list[list[float]]]]) -> None:
        self._embed = embed
        self._vectors: dict[str, np.ndarray] = {}

    async def __call__(self, question: str, texts: Sequence[str]) -> list[float]:
        """Return the cosine of the question with each text."""
        known = hashlib.sha256("\x00".join(texts).encode()).hexdigest()
        if known not in self._vectors:
            if len(self._vectors) >= _SETS:
                self._vectors.pop(next(iter(self._vectors)))
            self._vectors[known] = _unit(await self._embed(list(texts)))
        (asked,) = _unit(await self._embed([question]))
        return (self._vectors[known] @ asked).tolist()


def _unit(vectors: list[list[float]]) -> "np.ndarray":
    import numpy as np

    matrix = np.asarray(vectors, dtype=np.float32)
    return matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
