"""Finds the passages of an index that answer a query: by meaning, by words, by both, and in further stages."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import UserError
from components.data import search, store
from components.models import sources
from components.models.query_adapter import QueryAdapter
from components.retrieval import communities, documents, graph
from components.retrieval.diversify import maximal_marginal_relevance
from components.retrieval.embed import Embedder
from components.retrieval.expand import expand
from components.retrieval.generator import Generate, generator
from components.retrieval.hits import KEPT, PLACE, Hit, as_hit, fused
from components.retrieval.rerank import as_read
from components.retrieval.settings import Mode, RetrieveConfig
from components.retrieval.transforms import ModelTransformConfig, Probe, Tools, transformed
from components.spans import Span, step

if TYPE_CHECKING:
    from components.retrieval.late import LateInteraction
    from components.retrieval.rerank import Reranker

__all__ = ["Hit", "Mode", "RetrieveConfig", "Retriever", "open_retriever"]
Rows = dict[str, dict[str, Any]]  # passage_id → row, best first


class Retriever:
    """Searches one pinned version of an index with one loaded embedder; safe to share between threads."""

    def __init__(
        self,
        index_ref: str,
        embedder_folder: str | Path,
        config: RetrieveConfig,
        *,
        reranker: "Reranker | LateInteraction | None" = None,
        generate: Generate | None = None,
    ) -> None:
        """Open the index, and load the embedder unless only words are searched.

        Args:
            generate: language model for the transforms that ask one and name none.

        Raises:
            UserError: the index is missing or empty, has no full text where words are searched, no documents, graph
                or summaries where these are, its vectors were made by another embedder, or a reranker is missing.
        """
        self.config = config
        self.index = store.pin(index_ref)
        self._table = store.open_table(self.index)
        self._refine = search.refinement(self._table)
        self._generate = generate
        sample = self._table.head(1).to_pylist()
        if not sample:
            raise UserError(f"{self.index} has no passages: build the index first")
        self._embedder: Embedder | None = None
        self._made_by = sample[0]["embedder"]
        if config.asks_vectors():
            if self._made_by != sources.digest(Path(embedder_folder)):
                raise UserError(
                    f"the vectors of {self.index} were made by another embedder than {embedder_folder}: "
                    "use the one that built the index, or build it again"
                )
            self._embedder = Embedder(embedder_folder)
        self._parts: dict[str, Any] = {}  # documents, graph, summaries, adapters, opened when a config asks for them
        self._prepare(config, reranker)

    def with_config(self, config: RetrieveConfig, reranker: "Reranker | LateInteraction | None" = None) -> "Retriever":
        """Return a retriever that searches otherwise, and shares the opened table and the loaded embedder.

        Raises:
            UserError: as the constructor does, or vectors are asked for and this one has no embedder.
        """
        other = copy.copy(self)
        other.config = config
        if config.asks_vectors() and self._embedder is None:
            raise UserError(f"a {self.config.mode} retriever cannot search in mode {config.mode}: open it as hybrid")
        other._prepare(config, reranker or (self._reranker if config.rerank == self.config.rerank else None))
        return other

    def search(
        self,
        query: str,
        k: int | None = None,
        where: str | None = None,
        mode: Mode | None = None,
        *,
        trace: Span | None = None,
    ) -> list[Hit]:
        """Return up to ``k`` hits, best first; an empty query finds nothing. The stages are noted in ``trace``.

        What is None is as the config says; ``where`` narrows the config's own. A retriever that was
        opened as hybrid searches in any mode, the others only in their own.

        Raises:
            UserError: bad ``where``, or a mode that this retriever was not opened for.
        """
        config = self.config
        k = config.k if k is None else k
        if mode not in (None, config.mode):
            if config.mode != "hybrid":
                raise UserError(f"a {config.mode} retriever cannot search in mode {mode}: open it as hybrid")
            return self.with_config(config.model_copy(update={"mode": mode})).search(query, k, where, trace=trace)
        if not query.strip() or k < 1:
            return []
        condition = " AND ".join(f"({part})" for part in (config.where, where) if part) or None
        hits, vectors = self._first_stage(query, self._depth(k), condition, trace)
        if config.rerank:
            with step(trace, "rerank", "RERANKER", {"model": config.rerank, "candidates": len(hits)}):
                hits = self._reranked(query, hits)
        if config.novelty and hits:
            hits = self._diversified(hits, vectors, k)
        return expand(hits[:k], self._table, config.expand, config.expand_tokens, condition)

    def embed(self, texts: list[str]) -> list[list[float]]:
        """Return the unit vectors of texts as documents, made by the index's embedder.

        Raises:
            UserError: this retriever searches words only and has none.
        """
        if self._embedder is None:
            raise UserError("this retriever searches words only: choose mode dense or hybrid to embed texts")
        return self._embedder.documents(texts).tolist()

    def embed_query(self, query: str) -> list[float]:
        """Return the unit vector that a query is searched by. Raises as ``embed``."""
        if self._embedder is None:
            raise UserError("this retriever searches words only: choose mode dense or hybrid to embed a query")
        return self._meaning(query).tolist()

    def _prepare(self, config: RetrieveConfig, reranker: "Reranker | LateInteraction | None") -> None:
        """Open what a config's stages need."""
        if config.asks_words():
            search.require_fulltext(self._table, "text")
        if config.rerank and reranker is None:
            raise UserError(f"the reranker {config.rerank} is not loaded: open the retriever with open_retriever")
        self._reranker = reranker
        if isinstance(config.transform, ModelTransformConfig) and config.transform.language_model:
            self._generate = generator(config.transform.language_model)
        self._adapter = self._opened_adapter(config.query_adapter) if config.query_adapter else None
        if config.mode == "hierarchical" and "documents" not in self._parts:
            self._parts["documents"] = store.open_table(documents.table_of(self.index))
        if config.mode == "graph" and "graph" not in self._parts:
            self._parts["graph"] = graph.load(self.index)
        if config.mode == "communities" and "communities" not in self._parts:
            self._parts["communities"] = store.open_table(communities.table_of(self.index))

    def _opened_adapter(self, folder: str) -> QueryAdapter:
        if folder not in self._parts:
            self._parts[folder] = QueryAdapter.read(folder)
        self._parts[folder].check(self._made_by, self.index)
        return self._parts[folder]

    def _meaning(self, query: str) -> Any:
        """Return the unit vector that a query is searched by: its own, or as the adapter maps it."""
        assert self._embedder is not None
        vector = self._embedder.query(query)
        return vector if self._adapter is None else self._adapter.apply(vector)

    def _depth(self, k: int) -> int:
        """Return how many candidates the first stage has to bring for ``k`` hits at the end."""
        config = self.config
        single = config.mode in ("dense", "text") and not (config.transform or config.novelty)
        depth = k if single else max(k, config.candidates)
        return max(depth, config.rerank_depth) if config.rerank else depth

    def _first_stage(
        self, query: str, n: int, where: str | None, trace: Span | None
    ) -> tuple[list[Hit], dict[str, Any]]:
        """Return up to ``n`` hits and, where later stages compare them, passage_id → vector."""
        config = self.config
        if config.mode == "hierarchical":
            opened = (self._parts["documents"], self._table)
            within = documents.nearest(*opened, query, self._meaning(query), config.documents, where)
            if within is None:
                return [], {}
            where = f"({where}) AND ({within})" if where else within
        probes = [Probe(query, query)]
        if config.transform is not None:
            tools = Tools(lambda words, k: self._text(words, k, where), self._generate)
            with step(trace, "transform", "CHAIN", {"query": query, "transform": config.transform.name}) as told:
                probes = transformed(query, tools, config.transform)
                told.end([{"meaning": probe.meaning, "words": probe.words} for probe in probes])
        with step(trace, "search", "CHAIN", {"mode": config.mode, "candidates": n}):
            dense = [(self._dense(one, n, where), one.weight) for one in probes if one.meaning and self._by_vector]
            text = [(self._text(one.words, n, where), one.weight) for one in probes if one.words and self._by_words]
            hits = fused(dense, text, config)
        rows = {row["passage_id"]: row for found, _ in (*dense, *text) for row in found}
        if config.mode == "graph":
            hits = self._walked(query, hits, rows, n, where)
        if config.mode == "communities":
            hits = self._summed_up(query, hits, rows, where)
        return hits[:n], {key: row["vector"] for key, row in rows.items() if "vector" in row}

    @property
    def _by_vector(self) -> bool:
        return self.config.asks_vectors()

    @property
    def _by_words(self) -> bool:
        return self.config.asks_words()

    def _dense(self, probe: Probe, n: int, where: str | None) -> list[dict[str, Any]]:
        assert self._embedder is not None and probe.meaning is not None
        found = self._embedder.documents([probe.meaning])[0] if probe.as_document else self._meaning(probe.meaning)
        return search.search_vector(
            self._table, found.tolist(), n, where, refine=self._refine, with_vectors=self.config.novelty > 0
        )

    def _text(self, words: str, n: int, where: str | None) -> list[dict[str, Any]]:
        return search.search_text(self._table, words, n, where, with_vectors=self.config.novelty > 0)

    def _walked(self, query: str, hits: list[Hit], rows: Rows, n: int, where: str | None) -> list[Hit]:
        """Return the hits of a walk over the graph that starts at the query's names and at the best ``hits``."""
        seeds = {hit.passage_id: 1.0 / rank for rank, hit in enumerate(hits, 1)}
        ranked = self._parts["graph"].rank(query, seeds, None if where else n)
        if where:  # what it hides makes room for what comes after
            shown = {row["passage_id"] for row in store.rows(self._table, ["passage_id"], where)}
            ranked = [(key, share) for key, share in ranked if key in shown][:n]
        missing = [key for key, _ in ranked if key not in rows]
        if missing:
            columns = [*KEPT, *(name for name in PLACE if name in self._table.schema.names)]
            columns += ["vector"] if self.config.novelty else []
            found = store.rows(self._table, columns, store.one_of("passage_id", missing))
            rows |= {row["passage_id"]: row for row in found}
        known = {hit.passage_id: hit for hit in hits}
        return [
            replace(known[key], score=share) if key in known else as_hit(rows[key], share)
            for key, share in ranked
            if key in rows
        ]

    def _summed_up(self, query: str, hits: list[Hit], rows: Rows, where: str | None) -> list[Hit]:
        """Return the hits behind the summaries that fit the query; none of these scores less than the best hit."""
        assert self._embedder is not None
        found = communities.nearest(
            self._parts["communities"],
            self._table,
            query,
            self._embedder.query(query),
            self.config.communities,
            where,
            with_vectors=self.config.novelty > 0,
        )
        rows |= {row["passage_id"]: row for row in found}
        best = hits[0].score if hits else 0.0
        return [*(as_hit(row, max(row["score"], best)) for row in found), *hits]

    def _reranked(self, query: str, hits: list[Hit]) -> list[Hit]:
        """Return the best hits by the reranker; what it does not read is left out."""
        assert self._reranker is not None
        read = hits[: max(self.config.rerank_depth, 1)]
        if not read:
            return []
        scores = self._reranker.scores(query, [as_read(hit.title, hit.text) for hit in read])
        scored = [replace(hit, score=float(score)) for hit, score in zip(read, scores, strict=True)]
        return sorted(scored, key=lambda hit: -hit.score)

    def _diversified(self, hits: list[Hit], vectors: dict[str, Any], k: int) -> list[Hit]:
        import numpy as np

        relevance = np.array([hit.score for hit in hits])
        matrix = np.asarray([vectors[hit.passage_id] for hit in hits], dtype=np.float32)
        return [hits[place] for place in maximal_marginal_relevance(relevance, matrix, k, self.config.novelty)]


def open_retriever(
    index_ref: str, embedder_folder: str | Path, config: RetrieveConfig, cache: Path, generate: Generate | None = None
) -> Retriever:
    """Return a retriever with its reranker loaded, if the config names one. Raises as ``Retriever`` does."""
    reranker = load_reranker(config, cache)
    return Retriever(index_ref, embedder_folder, config, reranker=reranker, generate=generate)


def load_reranker(config: RetrieveConfig, cache: Path) -> "Reranker | LateInteraction | None":
    """Return the model that reranks, by what its folder holds; None where the config names none.

    Raises:
        UserError: there is no such model, or none that can rerank.
    """
    if config.rerank is None:
        return None
    from components.retrieval import late
    from components.retrieval.rerank import Reranker

    folder = sources.resolve(config.rerank, cache)
    return late.LateInteraction(folder) if late.compares_tokens(folder) else Reranker(folder)
