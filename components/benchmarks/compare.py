"""Ratios of costs that were measured again and again, with the spread that repeating them showed."""

import math
import random
from collections.abc import Sequence

_DRAWS = 2000


def compare(
    name: str, ours: Sequence[float], peer: Sequence[float], *, work: float | None = None, paired: bool = False
) -> dict[str, float]:
    """Return ``name`` + ``.ours``, ``.peer``, ``.ratio``, ``.ratio_low`` and ``.ratio_high``; more is better for us.

    The ratio is mean(peer) / mean(ours): how many times less we take. Low and high bound the 95 % bootstrap interval
    (percentiles, both sides drawn anew, or iterations of both sides at once), always by the same draws.

    Args:
        ours: what each of our iterations took: seconds, or bytes.
        peer: what each of the peer's took.
        work: what one iteration does; then ``.ours`` and ``.peer`` are work per cost, else the mean cost.
        paired: the n-th iteration did the same work on both sides, so that only costs of the same iterations compare.
    """
    drawn = random.Random(0)
    ratios = sorted(_ratio(drawn, ours, peer, paired) for _ in range(_DRAWS))
    shown = [_mean(costs) if work is None else work / _mean(costs) for costs in (ours, peer)]
    return {
        f"{name}.ours": shown[0],
        f"{name}.peer": shown[1],
        f"{name}.ratio": _mean(peer) / _mean(ours),
        f"{name}.ratio_low": ratios[round(0.025 * (_DRAWS - 1))],
        f"{name}.ratio_high": ratios[round(0.975 * (_DRAWS - 1))],
    }


def compare_quantile(name: str, ours: Sequence[float], peer: Sequence[float], share: float) -> dict[str, float]:
    """Return as ``compare`` does, but of the cost that ``share`` of all iterations do not exceed, in place of the mean.

    Source: Hyndman and Fan 1996, "Sample quantiles in statistical packages", definition 7.
    """
    drawn = random.Random(0)
    ratios = sorted(
        quantile(drawn.choices(peer, k=len(peer)), share) / quantile(drawn.choices(ours, k=len(ours)), share)
        for _ in range(_DRAWS)
    )
    return {
        f"{name}.ours": quantile(ours, share),
        f"{name}.peer": quantile(peer, share),
        f"{name}.ratio": quantile(peer, share) / quantile(ours, share),
        f"{name}.ratio_low": ratios[round(0.025 * (_DRAWS - 1))],
        f"{name}.ratio_high": ratios[round(0.975 * (_DRAWS - 1))],
    }


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value that ``share`` of the values do not exceed; between two of them it goes in a straight line."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (place - below) * (ordered[above] - ordered[below])


def largest_gap(ours: Sequence[float], peer: Sequence[float]) -> float:
    """Return how far two curves are apart at the step where they are furthest."""
    return max(abs(a - b) for a, b in zip(ours, peer, strict=True))


def _ratio(drawn: random.Random, ours: Sequence[float], peer: Sequence[float], paired: bool) -> float:
    """Return the ratio of a bootstrap sample."""
    if not paired:
        return _mean(drawn.choices(peer, k=len(peer))) / _mean(drawn.choices(ours, k=len(ours)))
    both = drawn.choices(list(zip(ours, peer, strict=True)), k=len(ours))
    return _mean([cost for _, cost in both]) / _mean([cost for cost, _ in both])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
