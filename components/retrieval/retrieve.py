"""Finds the passages of an index that answer a query: by meaning, by words, or by both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.config import Config, Field, UserError
from components.data import store
from components.models.sources import digest
from components.retrieval.embed import Embedder
from components.retrieval.fusion import reciprocal_rank_fusion

Mode = Literal["dense", "text", "hybrid"]


class RetrieveConfig(Config):
    """How passages are searched."""

    mode: Mode = Field("hybrid", description="by vectors, by words (BM25), or by both, fused by rank")
    k: int = Field(3, ge=1, description="passages returned")
    candidates: int = Field(30, ge=1, description="passages that each side of a hybrid search brings")
    rank_constant: int = Field(60, ge=1, description="constant of reciprocal rank fusion; smaller favours the first")
    where: str | None = Field(None, description="SQL condition on the columns that every search obeys, as corpus = 'x'")


@dataclass(frozen=True)
class Hit:
    """One passage that was found."""

    passage_id: str
    doc_id: str
    text: str
    title: str
    source: str
    group: str
    symbol: str | None
    start: int  # of the text in its document, in characters
    end: int
    score: float  # of the mode: cosine, BM25, or fused; orders the hits of one search
    similarity: float | None  # cosine in [-1, 1], where the vectors were searched and brought it
    bm25: float | None  # where the words were searched and brought it


class Retriever:
    """Searches one pinned version of an index with one loaded embedder; safe to share between threads."""

    def __init__(self, index_ref: str, embedder_folder: str | Path, config: RetrieveConfig) -> None:
        """Open the index, and load the embedder unless only words are searched.

        Raises:
            UserError: the index is missing or empty, has no full text where words are searched, or its
                vectors were made by another embedder.
        """
        self.config = config
        self.index = store.pin(index_ref)
        self._table = store.open_table(self.index)
        sample = self._table.head(1).to_pylist()
        if not sample:
            raise UserError(f"{self.index} has no passages: build the index first")
        if config.mode != "dense":
            store.require_fulltext(self._table, "text")
        self._embedder: Embedder | None = None
        if config.mode != "text":
            if sample[0]["embedder"] != digest(Path(embedder_folder)):
                raise UserError(
                    f"the vectors of {self.index} were made by another embedder than {embedder_folder}: "
                    "use the one that built the index, or build it again"
                )
            self._embedder = Embedder(embedder_folder)

    def search(self, query: str, k: int | None = None, where: str | None = None, mode: Mode | None = None) -> list[Hit]:
        """Return up to ``k`` hits, best first; an empty query finds nothing.

        What is None is as the config says; ``where`` narrows the config's own. A retriever that was
        opened as hybrid searches in any mode, the others only in their own.

        Raises:
            UserError: bad ``where``, or a mode that this retriever was not opened for.
        """
        k = self.config.k if k is None else k
        mode = self.config.mode if mode is None else mode
        if mode != self.config.mode != "hybrid":
            raise UserError(f"a {self.config.mode} retriever cannot search in mode {mode}: open it as hybrid")
        if not query.strip() or k < 1:
            return []
        condition = " AND ".join(f"({part})" for part in (self.config.where, where) if part) or None
        if mode == "dense":
            return [_hit(row, row["score"], similarity=row["score"]) for row in self._dense(query, k, condition)]
        if mode == "text":
            return [_hit(row, row["score"], bm25=row["score"]) for row in self._text(query, k, condition)]
        candidates = max(k, self.config.candidates)
        return _fuse(
            self._dense(query, candidates, condition),
            self._text(query, candidates, condition),
            self.config.rank_constant,
        )[:k]

    def embed(self, texts: list[str]) -> list[list[float]]:
        """Return the unit vectors of texts as documents, made by the index's embedder.

        Raises:
            UserError: this retriever searches words only and has none.
        """
        if self._embedder is None:
            raise UserError("this retriever searches words only: choose mode dense or hybrid to embed texts")
        return self._embedder.documents(texts).tolist()

    def _dense(self, query: str, k: int, where: str | None) -> list[dict[str, Any]]:
        assert self._embedder is not None
        return store.search_vector(self._table, self._embedder.query(query).tolist(), k, where)

    def _text(self, query: str, k: int, where: str | None) -> list[dict[str, Any]]:
        return store.search_text(self._table, query, k, where)


def _fuse(dense: list[dict[str, Any]], text: list[dict[str, Any]], rank_constant: int) -> list[Hit]:
    similarity = {row["passage_id"]: row["score"] for row in dense}
    bm25 = {row["passage_id"]: row["score"] for row in text}
    rows = {row["passage_id"]: row for row in [*text, *dense]}
    fused = reciprocal_rank_fusion([list(similarity), list(bm25)], rank_constant)
    return [_hit(rows[key], score, similarity.get(key), bm25.get(key)) for key, score in fused]


def _hit(row: dict[str, Any], score: float, similarity: float | None = None, bm25: float | None = None) -> Hit:
    kept = ("passage_id", "doc_id", "text", "title", "source", "group", "symbol", "start", "end")
    return Hit(**{name: row[name] for name in kept}, score=score, similarity=similarity, bm25=bm25)
