"""Bootstrap intervals that respect which observations belong together."""

from collections.abc import Sequence

DRAWS = 2000


def interval(
    parts: Sequence[Sequence[float | None]], clusters: Sequence[str], *, level: float = 0.95, seed: int = 0
) -> dict[str, float]:
    """{"mean", "low", "high", "n"} of the mean over `parts` of each part's mean; None is no observation.

    One part gives a plain mean. Whole clusters are drawn with replacement (percentile bootstrap): answers over
    the same passages fail together, so drawing single answers would make intervals too narrow.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
    """
    import numpy as np

    values = np.array([[np.nan if v is None else float(v) for v in part] for part in parts])
    names, member = np.unique(np.asarray(clusters), return_inverse=True)
    known = ~np.isnan(values)
    if not known.any(axis=1).all():
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "n": int(known.sum())}
    sums = np.array([np.bincount(member, np.where(k, v, 0.0), len(names)) for v, k in zip(values, known, strict=True)])
    counts = np.array([np.bincount(member, k, len(names)) for k in known])
    drawn = np.random.default_rng(seed).integers(len(names), size=(DRAWS, len(names)))
    with np.errstate(invalid="ignore"):  # a draw may hold no observation of a part; it is left out
        means = (sums[:, drawn].sum(axis=-1) / counts[:, drawn].sum(axis=-1)).mean(axis=0)
    low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
    mean = float((sums.sum(axis=1) / counts.sum(axis=1)).mean())
    return {"mean": mean, "low": float(low), "high": float(high), "n": int(known.sum())}
