"""What a search returns: passages with their scores, from one ranked list or joined from several."""

from dataclasses import dataclass
from typing import Any

from components.retrieval.fusion import reciprocal_rank_fusion, weighted_fusion
from components.retrieval.settings import RetrieveConfig

KEPT = ("passage_id", "corpus", "doc_id", "text", "title", "source", "group", "symbol", "start", "end")
PLACE = ("section", "page", "date")  # what older tables may lack


@dataclass(frozen=True)
class Hit:
    """One passage that was found."""

    passage_id: str
    corpus: str
    doc_id: str
    text: str
    title: str
    source: str
    group: str
    symbol: str | None
    start: int  # of the text in its document, in characters
    end: int
    score: float  # of the last stage that put them in order: cosine, BM25, fused, share of a walk, or reranked
    similarity: float | None  # cosine in [-1, 1], where the vectors were searched and brought it
    bm25: float | None  # where the words were searched and brought it
    section: str | None = None  # headings above it
    page: str | None = None
    date: str | None = None


def fused(
    dense: list[tuple[list[dict[str, Any]], float]],
    text: list[tuple[list[dict[str, Any]], float]],
    config: RetrieveConfig,
) -> list[Hit]:
    """Return the hits of all ranked lists, each given with its weight; a single list keeps its own scores."""
    similarity, bm25 = _best_scores(dense), _best_scores(text)
    rows = {row["passage_id"]: row for found, _ in (*text, *dense) for row in found}
    lists = [
        ({row["passage_id"]: row["score"] for row in found}, weight * 2 * share)
        for side, share in ((dense, config.dense_weight), (text, 1 - config.dense_weight))
        for found, weight in side
    ]
    if len(lists) == 1:
        ranked = list(lists[0][0].items())
    elif config.fusion == "rrf":
        ranked = reciprocal_rank_fusion(
            [list(found) for found, _ in lists], config.rank_constant, [w for _, w in lists]
        )
    else:
        ranked = weighted_fusion([found for found, _ in lists], [weight for _, weight in lists])
    return [as_hit(rows[key], score, similarity.get(key), bm25.get(key)) for key, score in ranked]


def _best_scores(side: list[tuple[list[dict[str, Any]], float]]) -> dict[str, float]:
    best: dict[str, float] = {}
    for found, _ in side:
        for row in found:
            best[row["passage_id"]] = max(row["score"], best.get(row["passage_id"], row["score"]))
    return best


def as_hit(row: dict[str, Any], score: float, similarity: float | None = None, bm25: float | None = None) -> Hit:
    """Return a table's row as a hit."""
    place: dict[str, Any] = {name: row.get(name) for name in PLACE}
    return Hit(**{name: row[name] for name in KEPT}, score=score, similarity=similarity, bm25=bm25, **place)
