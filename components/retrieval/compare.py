"""Ways of searching, side by side on the same questions: what each finds, how long it takes, and which is best."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.config import UserError
from components.data.split import split_of
from components.retrieval.communities import is_summary
from components.retrieval.measure import Figures, Grades, means, paired, per_query, summary
from components.retrieval.settings import RetrieveConfig
from components.retrieval.transforms.expansion import Expansion

if TYPE_CHECKING:
    from components.retrieval.hits import Hit
    from components.retrieval.retrieve import Retriever

WEIGHTS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # of vectors, tried where a fusion is fitted
_CANDIDATES = 100  # of each side: what one side has deep down, the other may have on top
FITTED = "weighted"  # the mode whose weight is fitted


@dataclass(frozen=True)
class Searched:
    """What one way of searching found."""

    rankings: dict[str, list[str]]  # query → ids, best first
    seconds: dict[str, float]  # query → how long it took


@dataclass(frozen=True)
class Compared:
    """All ways of searching on the same questions."""

    figures: dict[str, Figures]  # name → measure → figure, over all questions
    held_out: dict[str, Figures]  # the same over the questions that nothing was fitted on
    chosen: str  # best nDCG over all questions
    fit_choice: str  # best on the part that was fitted on: in held_out, an honest figure of choosing so
    configs: dict[str, RetrieveConfig]  # with what was fitted
    differences: dict[str, dict[str, float]]  # name → nDCG of the chosen one minus that one's, over all questions
    values: dict[str, dict[str, dict[str, float]]]  # name → measure → query → value


def usual_modes(rerank: str | None = None) -> dict[str, RetrieveConfig]:
    """Return the ways of searching that are compared where none are named; the reranked one if there is a model."""
    modes = {
        "text": RetrieveConfig(mode="text", candidates=_CANDIDATES),
        "dense": RetrieveConfig(mode="dense", candidates=_CANDIDATES),
        "hybrid": RetrieveConfig(candidates=_CANDIDATES),
        FITTED: RetrieveConfig(fusion="weighted", candidates=_CANDIDATES),
        "hybrid_mmr": RetrieveConfig(novelty=0.3, candidates=_CANDIDATES),
        "hybrid_expansion": RetrieveConfig(transform=Expansion(name="expansion"), candidates=_CANDIDATES),
    }
    return modes | ({"hybrid_rerank": RetrieveConfig(rerank=rerank, candidates=_CANDIDATES)} if rerank else {})


def depth_for(k: int) -> int:
    """Return how many passages to ask for where ``k`` ids are measured: several may be of one document."""
    return 3 * k


def search_all(retriever: "Retriever", queries: Mapping[str, str], depth: int, by: str = "doc_id") -> Searched:
    """Return the distinct ``by`` ids of up to ``depth`` hits for each query, and what each search took."""
    rankings, seconds = {}, {}
    for query, text in queries.items():
        started = time.perf_counter()
        hits = retriever.search(text, k=depth)
        seconds[query] = time.perf_counter() - started
        rankings[query] = ids_of(hits, by)
    return Searched(rankings, seconds)


def ids_of(hits: "Sequence[Hit]", by: str) -> list[str]:
    """Return the ids of what hits belong to, each where it stands first; summaries of groups are not graded."""
    return list(dict.fromkeys(getattr(hit, by) for hit in hits if not is_summary(hit.passage_id)))


def compare(
    retriever: "Retriever",
    configs: Mapping[str, RetrieveConfig],
    queries: Mapping[str, str],
    grades: Grades,
    k: int,
    *,
    by: str = "doc_id",
    fit_share: float = 0.5,
    rerankers: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> Compared:
    """Search every query in every way, and say which way is best.

    The weight of the mode ``weighted`` is fitted by nDCG on ``fit_share`` of the queries, drawn by a hash of their
    text, and ``held_out`` is measured on the others. The best way is chosen on all, since more questions choose better;
    what choosing gains is flattered a little by that, and ``fit_choice`` in ``held_out`` is not.

    Args:
        retriever: opened as hybrid; every way of searching shares its table and embedder.
        by: what ``grades`` are about: doc_id or passage_id.
        rerankers: reranker reference → loaded model.

    Raises:
        UserError: there are too few queries to fit on one part and to measure on another.
    """
    fit = [query for query, text in queries.items() if split_of(text, fit_share, f"fit{seed}") == "test"]
    rest = [query for query in queries if query not in set(fit)]
    if not fit or not rest:
        raise UserError(f"{len(queries)} queries are too few to choose on one part and to measure on the other")
    loaded = rerankers or {}
    configs = dict(configs)
    if FITTED in configs:
        own = {query: queries[query] for query in fit}
        base = retriever.with_config(configs[FITTED], loaded.get(configs[FITTED].rerank or ""))
        configs[FITTED] = fitted(base, own, grades, k, by)
    searched, values = {}, {}
    for name, config in configs.items():
        way = retriever.with_config(config, loaded.get(config.rerank or ""))
        way.search(next(iter(queries.values())), k=k)  # the first search opens files
        searched[name] = search_all(way, queries, depth_for(k), by)
        values[name] = per_query(grades, searched[name].rankings, k)
    ndcg = f"ndcg@{k}"
    fit_choice, chosen = (
        max(configs, key=lambda name: _mean(values[name][ndcg], part)) for part in (fit, list(queries))
    )
    return Compared(
        figures={name: summary(values[name], searched[name].seconds, seed) for name in configs},
        held_out={name: means(_only(values[name], rest), seed) for name in configs},
        chosen=chosen,
        fit_choice=fit_choice,
        configs=configs,
        differences={
            name: paired(values[chosen][ndcg], values[name][ndcg], seed) for name in configs if name != chosen
        },
        values=values,
    )


def fitted(way: "Retriever", queries: Mapping[str, str], grades: Grades, k: int, by: str) -> RetrieveConfig:
    """Return the config of a way of searching with the weight of vectors that has the best mean nDCG on queries."""
    graded, config = {query: grades[query] for query in queries}, way.config

    def ndcg(weight: float) -> float:
        weighted = way.with_config(config.model_copy(update={"dense_weight": weight}))
        found = search_all(weighted, queries, depth_for(k), by)
        return _mean(per_query(graded, found.rankings, k)[f"ndcg@{k}"], list(queries))

    return config.model_copy(update={"dense_weight": max(WEIGHTS, key=ndcg)})


def _mean(values: Mapping[str, float], queries: Sequence[str]) -> float:
    return sum(values[query] for query in queries) / len(queries)


def metrics(figures: Mapping[str, Figures]) -> dict[str, float]:
    """Return way/measure → mean, named so that MLflow takes it (``ndcg_at_10``)."""
    return {
        f"{name}/{measure.replace('@', '_at_')}": figure["mean"]
        for name, of_name in figures.items()
        for measure, figure in of_name.items()
    }


def _only(values: Mapping[str, Mapping[str, float]], queries: Sequence[str]) -> dict[str, dict[str, float]]:
    return {name: {query: by_query[query] for query in queries} for name, by_query in values.items()}
