"""Joins ranked lists that have no common scale."""

from collections.abc import Sequence


def reciprocal_rank_fusion(rankings: Sequence[Sequence[str]], rank_constant: int = 60) -> list[tuple[str, float]]:
    """Return (id, score) best first, where score = sum over rankings of 1 / (rank_constant + rank), rank from 1.

    An id counts once in a ranking, where it stands first; equal scores keep the order of first sight.
    Source: Cormack, Clarke, Buettcher 2009, "Reciprocal Rank Fusion outperforms Condorcet".
    """
    scores: dict[str, float] = {}
    for ranking in rankings:
        for rank, item in enumerate(dict.fromkeys(ranking), 1):
            scores[item] = scores.get(item, 0.0) + 1.0 / (rank_constant + rank)
    return sorted(scores.items(), key=lambda pair: -pair[1])
