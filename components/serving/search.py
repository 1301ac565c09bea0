"""The deployment that embeds texts and searches the index, beside the engine."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.config import UserError
from components.serving.settings import Mode, ServedName
from components.spans import Span


class SearchServer:
    """Holds the embedder and, where there is one, the index at its pinned version."""

    def __init__(
        self, index: str | None, embedder: str, cache: str | None = None, chosen: Mapping[str, Any] | None = None
    ) -> None:
        """Load what every search needs; what only some modes need is opened when the first request asks for it.

        Args:
            cache: where a reranker that the index's exam chose is unpacked.
            chosen: what mode ``auto`` means, as ``choice`` returns it, so that all replicas mean the same; none: what
                the exam says when it is first asked for.
        """
        from components.retrieval.embed import Embedder, load_tokenizer, max_input_tokens
        from components.retrieval.retrieve import RetrieveConfig, Retriever

        self._tokenizer, self._limit = load_tokenizer(embedder), max_input_tokens(embedder)
        self._index, self._cache = index, Path(cache or ".")
        self._retrievers: dict[str, Any] = {}
        self._chosen = chosen
        self._abstention: Mapping[str, Any] | None = None
        if index is None:
            self._embedder: Any = Embedder(embedder)
            self._embed = lambda texts: self._embedder.documents(texts).tolist()
            return
        self._hybrid = Retriever(index, embedder, RetrieveConfig())
        self._embed = self._hybrid.embed

    async def search(self, query: str, k: int, mode: Mode, where: str | None) -> list[dict[str, Any]]:
        """Return the ``k`` best passages, best first, with their scores.

        In mode ``auto`` each says in ``answerable`` whether what was found is strong enough to answer from.
        """
        return await asyncio.to_thread(self._search, query, k, mode, where)

    async def traced_search(
        self, query: str, k: int, mode: Mode, where: str | None
    ) -> tuple[list[dict[str, Any]], list[Span]]:
        """Return what ``search`` does, and the stages that it took."""
        whole = Span("search", "CHAIN")
        return await asyncio.to_thread(self._search, query, k, mode, where, whole), whole.parts

    async def embed(self, texts: list[str], whole: bool = False) -> dict[str, Any]:
        """Return ``vectors``, one for each text, and the count of ``tokens`` in the texts.

        Args:
            whole: refuse texts of which the embedder would leave out the end.

        Raises:
            UserError: there is one.
        """
        encoded = self._tokenizer.encode_batch(texts)
        for place, encoding in enumerate(encoded):
            own = len(encoding.ids) - sum(encoding.special_tokens_mask)
            if whole and own > self._limit:
                raise UserError(
                    f"input {place} (counted from 0) has {own} tokens, and this embedder reads at most {self._limit}: "
                    "split it, and embed its parts"
                )
        vectors = await asyncio.to_thread(self._embed, texts)
        return {"vectors": vectors, "tokens": sum(len(encoding.ids) for encoding in encoded)}

    def _search(
        self, query: str, k: int, mode: Mode, where: str | None, trace: Span | None = None
    ) -> list[dict[str, Any]]:
        from components.retrieval import abstain

        if mode not in self._retrievers:  # two first requests may both open it: the later one stays
            self._retrievers[mode] = self._opened(mode)
        retriever, kept = self._retrievers[mode], self._abstention if mode == "auto" else None
        fitted_on = retriever.config.k  # what the exam searched for
        hits = retriever.search(query, max(k, fitted_on) if kept else k, where, trace=trace)
        sure = {"answerable": abstain.answers(hits, kept, fitted_on)} if kept else {}
        return [asdict(hit) | sure for hit in hits[:k]]

    def _opened(self, mode: Mode) -> Any:
        """Return the retriever of a mode; all share the embedder and the opened table."""
        from components.retrieval import exam
        from components.retrieval.retrieve import RetrieveConfig, load_reranker

        assert self._index is not None, "the ingress asks only a server that has an index"
        if mode != "auto":
            return self._hybrid.with_config(RetrieveConfig(mode=mode))
        chosen = self._chosen or choice(self._index)
        config = RetrieveConfig.model_validate(chosen["config"]) if chosen else exam.chosen_config(self._index)
        self._abstention = chosen.get("abstention") if chosen else None
        return self._hybrid.with_config(config, load_reranker(config, self._cache))


def choice(index: str) -> dict[str, Any] | None:
    """Return what mode ``auto`` means for a version of an index: the exam's ``config`` and ``abstention``, if any."""
    from components.retrieval import exam, facts

    record = facts.read(index, exam.KIND)
    return None if record is None else {key: record[key] for key in ("config", "abstention") if key in record}


def check_modes(names: Sequence[ServedName], index: str) -> None:
    """Refuse names that search the index in a way that it was not made ready for.

    Raises:
        UserError: with what is missing, and the workflow that makes it.
    """
    from components.retrieval import documents, graph

    modes = {_mode(name, index) for name in names}
    if "hierarchical" in modes:
        documents.table_of(index)
    if "graph" in modes:
        graph.table_of(index)
    for name in names:
        summaries_of(name, index)


def summaries_of(name: ServedName, index: str | None) -> str | None:
    """Return the pinned table of summaries that a name searches, if it does.

    The index's version does not say who wrote them: a name's lineage has to.

    Raises:
        UserError: none were made of this version of the index.
    """
    from components.retrieval import communities

    if index is None or _mode(name, index) != "communities":
        return None
    return communities.table_of(index)


def _mode(name: ServedName, index: str) -> str | None:
    """Return how a name searches the index; None where it does not. Raises UserError where no exam chose for auto."""
    from components.retrieval import exam

    if name.search is None:
        return None
    return exam.chosen_config(index).mode if name.search.mode == "auto" else name.search.mode
