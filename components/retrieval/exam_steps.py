"""What the exam's workflow does around it: indexes made before, the version in use, the page that people read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.data import search, store
from components.retrieval import communities, documents, exam, facts, graph
from components.retrieval.compare import Compared, usual_modes
from components.retrieval.generator import generator
from components.retrieval.measure import differences, table
from components.retrieval.retrieve import RetrieveConfig, Retriever, load_reranker


def prepare(
    ref: str,
    kind: str,
    with_documents: bool,
    with_graph: bool,
    groups: communities.Communities | None = None,
    embedder: Path | None = None,
    late: str | None = None,
) -> tuple[str, dict[str, RetrieveConfig]]:
    """Make what is asked for beside an index, and return its pinned reference and the modes that can be tried.

    A new vector index makes a new version of the table: a reference that pins an older one would examine another
    table than it names, so that it gets none.

    Args:
        kind: of the vector index; ``auto`` goes by the number of passages.
        groups: which groups of passages are summarized, and by whom; none: none are.
        embedder: folder of the model that makes the summaries' vectors.
        late: the model whose vectors of tokens put candidates in order, in one mode more; nothing is made for it.

    Raises:
        UserError: there is no such index, it has no passages or no groups of them, or nobody to summarize them.
    """
    index = store.pin(ref)
    passages = store.count(index)
    wanted: Any = exam.index_for(passages) if kind == "auto" else None if kind == "none" else kind
    uri, name, version = store.parse_ref(index)
    is_latest = version == store.open_table(store.make_ref(uri, name)).version
    if wanted and is_latest and search.vector_index(index) is None:
        seen_by_readers = store.tagged(index, store.COMPLETE) == index
        index = search.create_vector_index(index, exam.cells_for(passages), wanted)
        if seen_by_readers:
            store.move_tag(index, store.COMPLETE)
    modes = usual_modes()
    if with_documents:
        documents.build(index)
        modes["hierarchical"] = modes["hybrid"].model_copy(update={"mode": "hierarchical"})
    if with_graph:
        graph.build(index)
        modes["graph"] = modes["hybrid"].model_copy(update={"mode": "graph"})
    if groups is not None:
        assert embedder is not None, "summaries are found by their vectors, too"
        write = generator(groups.language_model) if groups.language_model else None
        communities.build(index, embedder, groups, write)
        modes["communities"] = modes["hybrid"].model_copy(update={"mode": "communities"})
    if late:
        modes["hybrid_late"] = modes["hybrid"].model_copy(update={"rerank": late})
    return index, modes


def examine(
    index: str, embedder: Path, config: exam.ExamConfig, tag: str, cache: Path, seed: int
) -> tuple[dict[str, Any], Compared]:
    """Return the record of a version's exam, with its verdict, and the comparison behind it.

    Raises:
        UserError: the corpus cannot be asked about, or the embedder is not the index's.
    """
    retriever = Retriever(index, embedder, RetrieveConfig())
    rerankers = {way.rerank: load_reranker(way, cache) for way in (config.modes or {}).values() if way.rerank}
    record, compared = exam.sit(retriever, config, rerankers, seed)
    best = RetrieveConfig.model_validate(record["config"])
    before = store.tagged(index, tag)
    drop = None
    if before is not None and before != index:
        found = facts.read(before, exam.KIND)
        way = RetrieveConfig.model_validate(found["config"]) if found else RetrieveConfig()
        previous = Retriever(before, embedder, RetrieveConfig()).with_config(way, load_reranker(way, cache))
        chosen = retriever.with_config(best, rerankers.get(best.rerank or ""))
        drop = exam.worse_than(chosen, previous, exam.questions_from(index, config.questions, seed), config.k)
    reasons = exam.failures(record, drop, config)
    return record | {"passed": not reasons, "reasons": reasons, "drop": drop, "compared_with": before}, compared


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
