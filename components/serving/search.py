"""The deployment that embeds texts and searches the index, beside the engine."""

import asyncio
from typing import Any


class SearchServer:
    """Holds the embedder and the index at its pinned version."""

    def __init__(self, index: str | None, embedder: str | None) -> None:
        from components.retrieval.embed import Embedder
        from components.retrieval.retrieve import Retriever

        self._embedder = Embedder(embedder) if embedder else None
        self._retriever = Retriever(index, self._embedder) if index else None

    async def search(self, query: str, k: int, mode: str) -> list[dict[str, Any]]:
        """Return the ``k`` best passages, best first, with their scores."""
        return await asyncio.to_thread(self._retriever.retrieve, query, k, mode)

    async def embed(self, texts: list[str]) -> dict[str, Any]:
        """Return ``vectors``, one for each text, and the count of ``tokens`` read."""
        return await asyncio.to_thread(self._embedder.embed, texts)
