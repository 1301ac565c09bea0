"""The deployment that embeds texts and searches the index, beside the engine."""

import asyncio
import copy
from dataclasses import asdict
from typing import Any

from components.serving.settings import Mode


class SearchServer:
    """Holds the embedder and, where there is one, the index at its pinned version."""

    def __init__(self, index: str | None, embedder: str) -> None:
        from components.retrieval.embed import Embedder, load_tokenizer
        from components.retrieval.retrieve import RetrieveConfig, Retriever

        self._tokenizer = load_tokenizer(embedder)
        self._retrievers: dict[str, Any] = {}
        if index is None:
            self._embedder: Any = Embedder(embedder)
            self._embed = lambda texts: self._embedder.documents(texts).tolist()
            return
        hybrid = Retriever(index, embedder, RetrieveConfig(mode="hybrid"))
        self._embed = hybrid.embed
        modes: tuple[Mode, ...] = ("dense", "text", "hybrid")
        for mode in modes:  # they share the embedder and the opened table, and differ in what they ask it
            self._retrievers[mode] = copy.copy(hybrid)
            self._retrievers[mode].config = RetrieveConfig(mode=mode)

    async def search(self, query: str, k: int, mode: Mode, where: str | None) -> list[dict[str, Any]]:
        """Return the ``k`` best passages, best first, with their scores."""
        found = await asyncio.to_thread(self._retrievers[mode].search, query, k, where)
        return [asdict(hit) for hit in found]

    async def embed(self, texts: list[str]) -> dict[str, Any]:
        """Return ``vectors``, one for each text, and the count of ``tokens`` in the texts."""
        vectors = await asyncio.to_thread(self._embed, texts)
        tokens = sum(len(encoding.ids) for encoding in self._tokenizer.encode_batch(texts))
        return {"vectors": vectors, "tokens": tokens}
