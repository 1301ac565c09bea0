"""Joins ranked lists: by rank where their scores have no common scale, or by scores brought onto one."""

from collections.abc import Mapping, Sequence


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[str]], rank_constant: int = 60, weights: Sequence[float] | None = None
) -> list[tuple[str, float]]:
    """Return (id, score) best first, where score = sum over rankings of weight / (rank_constant + rank), rank from 1.

    An id counts once in a ranking, where it stands first; equal scores keep the order of first sight. Without
    ``weights`` every ranking counts 1.
    Source: Cormack, Clarke, Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet".
    """
    scores: dict[str, float] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for rank, item in enumerate(dict.fromkeys(ranking), 1):
            scores[item] = scores.get(item, 0.0) + weight / (rank_constant + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])


def weighted_fusion(scored: Sequence[Mapping[str, float]], weights: Sequence[float]) -> list[tuple[str, float]]:
    """Return (id, score) best first, where score = sum over lists of weight * (s - min) / (max - min).

    Each list's scores are stretched to [0, 1] first, as cosines and BM25 have no common scale. What a list lacks
    counts 0 in it, like its last one; where all scores of a list are equal, all count 1.
    Source: Lee 1997, "Analyses of Multiple Evidence Combination" (min-max, then a weighted CombSUM).
    """
    total: dict[str, float] = {}
    for scores, weight in zip(scored, weights, strict=True):
        low, high = min(scores.values(), default=0.0), max(scores.values(), default=0.0)
        for item, score in scores.items():
            share = (score - low) / (high - low) if high > low else 1.0
            total[item] = total.get(item, 0.0) + weight * share
    return sorted(total.items(), key=lambda pair: -pair[1])
