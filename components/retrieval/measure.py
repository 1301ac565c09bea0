"""How good a way of searching is: graded measures, latencies, and differences, each with a bootstrap interval.

A ranking is a list of ids, best first; ``grades`` says for each query how relevant an id is (query → id → grade).
A grade above 0 is relevant, 0 is not; a negative one marks what is neither (the paper that a question was made
from): it is taken out of rankings before anything is counted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from components.config import UserError
from components.data.statistics import DRAWS, interval

Grades = Mapping[str, Mapping[str, int]]
Rankings = Mapping[str, Sequence[str]]
Figures = dict[str, dict[str, float]]


def per_query(grades: Grades, rankings: Rankings, k: int) -> dict[str, dict[str, float]]:
    """Return measure → query → value of ``recall@k``, ``mrr@k`` and ``ndcg@k``, as ir-measures computes them.

    A query without a ranking counts 0. The gain of nDCG is the grade, discounted by log2(rank + 1).

    Raises:
        UserError: a query has no relevant id, so that nothing can be found for it.
    """
    import ir_measures
    from ir_measures import RR, R, nDCG

    hopeless = [query for query, of_query in grades.items() if not any(grade > 0 for grade in of_query.values())]
    if hopeless:
        raise UserError(f"{len(hopeless)} queries have nothing relevant (as '{hopeless[0]}'): leave them out")
    judged = {query: {i: g for i, g in of_query.items() if g >= 0} for query, of_query in grades.items()}
    run = {query: _scored(rankings.get(query, ()), of_query) for query, of_query in grades.items()}
    names = {R @ k: f"recall@{k}", RR @ k: f"mrr@{k}", nDCG @ k: f"ndcg@{k}"}
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(grades, 0.0) for name in names.values()}
    for found in ir_measures.iter_calc(list(names), judged, {query: of_run for query, of_run in run.items() if of_run}):
        values[names[found.measure]][found.query_id] = float(found.value)
    return values


def summary(
    values: Mapping[str, Mapping[str, float]],
    seconds: Mapping[str, float],
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
) -> Figures:
    """Return each measure's mean over the queries and the latency's p50 and p95 in ms, with 95 % intervals."""
    milliseconds = [1000 * value for value in seconds.values()]
    return means(values, seed, groups) | {f"p{q}_ms": quantile(milliseconds, q / 100, seed) for q in (50, 95)}


def means(values: Mapping[str, Mapping[str, float]], seed: int = 0, groups: Mapping[str, str] | None = None) -> Figures:
    """Return each measure's mean over the queries, with a 95 % interval; ``groups`` as for ``paired``."""
    return {
        name: interval([list(by_query.values())], _clusters(by_query, groups), seed=seed)
        for name, by_query in values.items()
    }


def paired(
    ours: Mapping[str, float], theirs: Mapping[str, float], seed: int = 0, groups: Mapping[str, str] | None = None
) -> dict[str, float]:
    """Return the mean difference ``ours - theirs`` over the same queries, with a 95 % interval.

    Both sides are drawn together: what makes a query hard for both cancels, so that the interval is narrower
    than two intervals side by side would suggest.

    Args:
        groups: query → what it shares with others, as a passage that all of them ask about: they are drawn together.

    Raises:
        UserError: the two sides were not asked the same queries.
    """
    if set(ours) != set(theirs):
        raise UserError(f"{len(set(ours) ^ set(theirs))} queries were asked on one side only: compare the same ones")
    return interval([[ours[query] - theirs[query] for query in ours]], _clusters(ours, groups), seed=seed)


def quantile(values: Sequence[float], q: float, seed: int = 0) -> dict[str, float]:
    """Return {"mean", "low", "high", "n"} of a quantile (as "mean") with its 95 % percentile bootstrap interval."""
    import numpy as np

    if not values:
        return {"mean": float("nan"), "low": float("nan"), "high": float("nan"), "n": 0}
    array = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).integers(len(array), size=(DRAWS, len(array)))
    low, high = np.quantile(np.quantile(array[draws], q, axis=1), [0.025, 0.975])
    return {"mean": float(np.quantile(array, q)), "low": float(low), "high": float(high), "n": len(array)}


def table(rows: Mapping[str, Figures]) -> str:
    """Return name → figures as a Markdown table: mean [low, high] in each cell."""
    columns = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name, figures in rows.items():
        lines.append(f"| {name} | " + " | ".join(_cell(figures[column], column) for column in columns) + " |")
    return "\n".join(lines) + "\n"


def differences(gaps: Mapping[str, Mapping[str, float]]) -> str:
    """Return name → difference, as ``paired`` gives it, as a Markdown table."""
    lines = [f"| {name} | {gap['mean']:+.4f} [{gap['low']:+.4f}, {gap['high']:+.4f}] |" for name, gap in gaps.items()]
    return "\n".join(["| | difference |", "|---|---|", *lines])


def _clusters(by_query: Mapping[str, float], groups: Mapping[str, str] | None) -> list[str]:
    return [groups[query] for query in by_query] if groups is not None else list(by_query)


def _scored(ranking: Sequence[str], of_query: Mapping[str, int]) -> dict[str, float]:
    """Return id → score without ties: equal scores would be put in order of the ids."""
    kept = [item for item in dict.fromkeys(ranking) if of_query.get(item, 0) >= 0]
    return {item: float(len(kept) - place) for place, item in enumerate(kept)}


def _cell(figure: Mapping[str, Any], column: str) -> str:
    digits = 1 if column.endswith("_ms") else 3
    return f"{figure['mean']:.{digits}f} [{figure['low']:.{digits}f}, {figure['high']:.{digits}f}]"
