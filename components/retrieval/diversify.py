"""Chooses passages that do not repeat each other."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def maximal_marginal_relevance(
    relevance_n: "np.ndarray", vectors_nd: "np.ndarray", k: int, novelty: float
) -> list[int]:
    """Return the positions of up to ``k`` candidates, in the order in which they are chosen.

    Each next one has the largest (1 - novelty) * relevance - novelty * (largest cosine to what is chosen already);
    the first is the most relevant one, and novelty 0 keeps the order by relevance.

    Args:
        relevance_n: relevance of each of n candidates; it is stretched to [0, 1], the range of most cosines, so
            that ``novelty`` means the same for every kind of score.
        vectors_nd: unit vectors of the candidates.

    Source: Carbonell, Goldstein 1998, "The Use of MMR, Diversity-Based Reranking", with lambda = 1 - novelty.
    """
    import numpy as np

    n = len(relevance_n)
    if n == 0 or k < 1:
        return []
    low, high = float(relevance_n.min()), float(relevance_n.max())
    relevance = (relevance_n - low) / (high - low) if high > low else np.ones(n)
    chosen = [int(np.argmax(relevance))]
    nearest = vectors_nd @ vectors_nd[chosen[0]]  # of each candidate, the cosine to the nearest chosen one
    while len(chosen) < min(k, n):
        value = (1 - novelty) * relevance - novelty * nearest
        value[chosen] = -np.inf
        chosen.append(int(np.argmax(value)))
        nearest = np.maximum(nearest, vectors_nd @ vectors_nd[chosen[-1]])
    return chosen
