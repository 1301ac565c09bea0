"""What the exam's workflow does around it: indexes made before, the version in use, the page that people read."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError
from components.data import store
from components.models import sources
from components.retrieval import communities, documents, exam, facts, graph
from components.retrieval.compare import Compared, usual_modes
from components.retrieval.exam_questions import questions_from
from components.retrieval.generator import generator
from components.retrieval.measure import differences, table
from components.retrieval.retrieve import RetrieveConfig, Retriever, load_reranker

_RERANK_DEPTHS = (10, 20, 50)  # candidates that a cross-encoder reads: the more, the longer a query takes


@dataclass(frozen=True)
class Tried:
    """What an exam tries beside the usual ways of searching, and what has to be made for it."""

    documents: bool = False  # vectors of documents, for a hierarchical search
    graph: bool = False  # of the names in passages
    groups: communities.Communities | None = None  # which groups of passages are summarized, and by whom
    late: str | None = None  # the model whose vectors of tokens put candidates in order
    rerank: str | None = None  # the cross-encoder that does, at several depths


def prepare(index: str, tried: Tried, embedder: Path) -> dict[str, RetrieveConfig]:
    """Make what is to be tried with a version of an index, and return the ways of searching that use it.

    Args:
        index: pinned reference.
        embedder: folder of the model that makes the summaries' vectors.

    Raises:
        UserError: the index has no passages or no groups of them, or nobody to summarize them.
    """
    hybrid = usual_modes()["hybrid"]
    modes: dict[str, RetrieveConfig] = {}
    if tried.documents:
        documents.build(index)
        modes["hierarchical"] = hybrid.model_copy(update={"mode": "hierarchical"})
    if tried.graph:
        graph.build(index)
        modes["graph"] = hybrid.model_copy(update={"mode": "graph"})
    if tried.groups is not None:
        author = tried.groups.language_model
        communities.build(index, embedder, tried.groups, generator(author) if author else None)
        modes["communities"] = hybrid.model_copy(update={"mode": "communities"})
    if tried.late:
        modes["hybrid_late"] = hybrid.model_copy(update={"rerank": tried.late})
    if tried.rerank:
        for depth in _RERANK_DEPTHS:
            modes[f"hybrid_rerank_{depth}"] = hybrid.model_copy(update={"rerank": tried.rerank, "rerank_depth": depth})
    return modes


def examine(
    index: str, embedder: Path, config: exam.ExamConfig, tag: str, cache: Path, seed: int
) -> tuple[dict[str, Any], Compared]:
    """Return the record of a version's exam, with its verdict, and the comparison behind it.

    Raises:
        UserError: the corpus cannot be asked about, or the embedder is not the index's.
    """
    retriever = Retriever(index, embedder, RetrieveConfig())
    reranked = {way.rerank: way for way in (config.modes or {}).values() if way.rerank}
    rerankers = {name: load_reranker(way, cache) for name, way in reranked.items()}
    record, compared = exam.sit(retriever, config, rerankers, seed)
    best = RetrieveConfig.model_validate(record["config"])
    before = store.tagged(index, tag)
    drop = None
    if before is not None and before != index:
        chosen = retriever.with_config(best, rerankers.get(best.rerank or ""))
        asked = questions_from(index, config.questions, seed)
        drop = exam.worse_than(chosen, _in_use(before, embedder, cache), asked, config.k)
    reasons = exam.failures(record, drop, config)
    return record | {"passed": not reasons, "reasons": reasons, "drop": drop, "compared_with": before}, compared


def _in_use(index: str, embedder: Path, cache: Path) -> Retriever:
    """Return the version that has the tag, as its own exam chose to search it, with the embedder that made it.

    Raises:
        UserError: that one is another than now, and nobody has kept which, or it is gone.
    """
    record = facts.read(index, exam.KIND) or {}
    way = RetrieveConfig.model_validate(record["config"]) if record else RetrieveConfig()
    (sample,) = store.open_table(index).head(1).to_pylist() or [{"embedder": None}]
    try:
        is_same = sample["embedder"] == sources.digest(embedder) or "embedder" not in record
        own = embedder if is_same else sources.resolve(record["embedder"], cache)
        return Retriever(index, own, RetrieveConfig()).with_config(way, load_reranker(way, cache))
    except UserError as error:
        raise UserError(f"{index}, which has the tag, cannot be compared with: {error}; or give another tag") from error


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the exam's own figures, beside those of each mode."""
    abstention = record["abstention"]
    rates = {name: abstention[name]["mean"] for name in ("false_answer_rate", "answer_rate")}
    drop = {"drop": record["drop"]["mean"]} if record["drop"] else {}
    return {"recall_of_exact": record["recall_of_exact"], "questions": float(record["questions"]), **rates, **drop}


def page(index: str, record: Mapping[str, Any], compared: Compared) -> str:
    """Return the exam as Markdown."""
    abstention, verdict = record["abstention"], "passed" if record["passed"] else "failed"
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(record["kinds"].items()))
    exact = f"{record['vector_index']}, recall of exact search {record['recall_of_exact']:.3f}"
    lines = [
        f"# Exam of {index}: {verdict}",
        f"\n{record['questions']} questions made from its passages ({kinds}). Mean with 95 % bootstrap interval.",
        f"\nVectors are searched {'by ' + exact if record['vector_index'] else 'exactly'}.",
        f"\nBest: **{record['mode']}**.\n\n## All questions\n",
        table(compared.figures),
        f"\n## The half that fitted nothing (by the other half, {compared.fit_choice} would be chosen)\n",
        table(compared.held_out),
        f"\n## nDCG of {record['mode']} minus that of the others\n",
        differences(compared.differences),
        "\n## When to say that one does not know\n",
        f"Answered where {abstention['signal']} is above {abstention['threshold']:.4f}: fitted so that at most "
        f"{abstention['max_false_answer_rate']:.0%} of the questions without an answer in the index are answered. "
        f"On other questions: {abstention['false_answer_rate']['mean']:.1%} of those were, and "
        f"{abstention['answer_rate']['mean']:.1%} of those that have one.",
    ]
    return "\n".join(lines) + "\n"
