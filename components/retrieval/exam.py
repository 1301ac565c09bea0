"""The exam that every index sits: against exact search, and on questions made from its own passages.

Nobody has graded one's own corpus, but a passage can be asked for: a question that was made from it has it as its
answer. Which way of searching is best is measured on such questions, kept with the version, and what serving reads
where it is told ``auto``; a version that does worse than the one in use does not take its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from components.config import Config, Field, UserError
from components.data import search, store
from components.retrieval import abstain, facts
from components.retrieval.compare import Compared, compare, depth_for, ids_of, usual_modes
from components.retrieval.exam_questions import Asked, questions_from
from components.retrieval.measure import paired, per_query
from components.retrieval.settings import RetrieveConfig

if TYPE_CHECKING:
    from components.retrieval.retrieve import Retriever

KIND = "exam"
_EXACT_BELOW = 50_000  # passages that exact search is quick enough for
_BITS_FROM = 10_000_000  # from here on a byte for each number is much memory: 4 GB of 384 numbers
_PASSAGES_A_CELL = 4096


class ExamConfig(Config):
    """How an index is examined."""

    questions: int = Field(200, ge=20, description="questions made from the index's passages")
    k: int = Field(10, ge=1, description="depth of recall, MRR and nDCG")
    modes: dict[str, RetrieveConfig] | None = Field(
        None,
        description="ways of searching to choose from, beside those that graph, documents, … try; none: words, "
        "vectors, both by rank and by weight, MMR, expansion",
    )
    min_recall: float = Field(0.95, ge=0, le=1, description="recall of exact search that a vector index has to reach")
    max_drop: float = Field(0.03, ge=0, description="nDCG by which it may be worse than the version in use")
    false_answer_rate: float = Field(0.1, gt=0, lt=1, description="unanswerable questions that may be answered")


def index_for(passages: int) -> search.VectorIndex | None:
    """Return the kind of vector index for so many passages; None: exact search is quick enough."""
    if passages < _EXACT_BELOW:
        return None
    return "ivf_sq" if passages < _BITS_FROM else "ivf_rq"


def cells_for(passages: int) -> int:
    """Return how many cells a vector index has.

    A search looks into a fixed number of them: the fewer there are, the better is recall, and the longer it takes.
    Of 50,000 passages all are looked at, of a million a fifteenth.
    """
    return max(1, passages // _PASSAGES_A_CELL)


def against_exact(table: Any, vectors: Sequence[Sequence[float]], k: int) -> float:
    """Return the share of the ``k`` nearest passages by exact search that the table's vector index finds, too."""
    shares, refine = [], search.refinement(table)
    for vector in vectors:
        exact = {row["passage_id"] for row in search.search_vector(table, vector, k)}
        found = {row["passage_id"] for row in search.search_vector(table, vector, k, refine=refine)}
        shares.append(len(exact & found) / max(len(exact), 1))
    return sum(shares) / len(shares)


def sit(
    retriever: "Retriever", config: ExamConfig, rerankers: Mapping[str, Any], seed: int
) -> tuple[dict[str, Any], Compared]:
    """Return the record of an index's exam, as plain values, and the comparison behind it.

    Args:
        retriever: opened as hybrid on the version.
        rerankers: reference → loaded model, for the modes that rerank.

    Raises:
        UserError: the corpus cannot be asked about, or has too few questions for the false-answer rate.
    """
    asked = questions_from(retriever.index, config.questions, seed)
    texts = {key: one.question for key, one in asked.items()}
    grades = {key: one.grades() for key, one in asked.items()}
    ways = config.modes or usual_modes()
    compared = compare(retriever, ways, texts, grades, config.k, by="passage_id", rerankers=rerankers, seed=seed)
    table = store.open_table(retriever.index)
    found = search.vector_index(table)
    recall = against_exact(table, [retriever.embed_query(text) for text in texts.values()], config.k) if found else 1.0
    best = compared.configs[compared.chosen]
    chosen = retriever.with_config(best, rerankers.get(best.rerank or ""))
    record = {
        "mode": compared.chosen,
        "config": best.model_dump(mode="json"),
        "questions": len(asked),
        "asked": [one.question for one in asked.values()],
        "kinds": {kind: sum(one.kind == kind for one in asked.values()) for kind in {o.kind for o in asked.values()}},
        "vector_index": found.kind if found else None,
        "recall_of_exact": recall,
        "figures": compared.figures,
        "held_out": compared.held_out,
        "abstention": asdict(abstention(chosen, asked, config.false_answer_rate)),
    }
    return record, compared


def abstention(retriever: "Retriever", asked: Mapping[str, Asked], max_rate: float) -> abstain.Abstention:
    """Return the threshold under which nothing is answered, fitted on questions whose documents are kept out of sight.

    The same question is answerable with its document and is not without it and those that say the same: what is left
    to find is what an index has that does not hold the answer.
    """
    answerable: list[dict[abstain.Signal, float]] = []
    unanswerable: list[dict[abstain.Signal, float]] = []
    for one in asked.values():
        for side, where in ((answerable, None), (unanswerable, one.unseen())):
            hits = retriever.search(one.question, where=where)
            side.append({signal: abstain.confidence(hits, signal) for signal in abstain.SIGNALS})
    return abstain.fit(answerable, unanswerable, max_rate)


def worse_than(retriever: "Retriever", previous: "Retriever", asked: Mapping[str, Asked], k: int) -> dict[str, float]:
    """Return nDCG of the version in use minus this one's, on the questions whose document both have, with its interval.

    Each is searched the way that its own exam chose. Documents count, as other chunks have other ids.

    Raises:
        UserError: the two share no document that was asked about.
    """
    condition = store.one_of("doc_id", sorted({one.doc_id for one in asked.values()}))
    known = {row["doc_id"] for row in store.rows(store.open_table(previous.index), ["doc_id"], condition)}
    shared = {key: one for key, one in asked.items() if one.doc_id in known}
    if not shared:
        raise UserError(f"{retriever.index} and {previous.index} share no document: they are no versions of one corpus")
    grades = {key: {one.doc_id: 1} for key, one in shared.items()}

    def ndcg(way: "Retriever") -> dict[str, float]:
        found = {key: ids_of(way.search(one.question, k=depth_for(k)), "doc_id") for key, one in shared.items()}
        return per_query(grades, found, k)[f"ndcg@{k}"]

    return paired(ndcg(previous), ndcg(retriever))


def failures(record: Mapping[str, Any], drop: Mapping[str, float] | None, config: ExamConfig) -> list[str]:
    """Return why a version must not be used; nothing where it may.

    Args:
        drop: what ``worse_than`` found; None where no version is in use.
    """
    reasons = []
    if record["recall_of_exact"] < config.min_recall:
        reasons.append(
            f"its {record['vector_index']} index finds {record['recall_of_exact']:.3f} of what exact search finds "
            f"(at least {config.min_recall} is asked for): name another vector_index, or none"
        )
    if drop is not None and drop["mean"] > config.max_drop:
        reasons.append(
            f"nDCG@{config.k} is {drop['mean']:.4f} [{drop['low']:.4f}, {drop['high']:.4f}] below the version in use "
            f"(at most {config.max_drop} is allowed)"
        )
    return reasons


def chosen_config(index_ref: str) -> RetrieveConfig:
    """Return the way of searching that the version's exam chose.

    Raises:
        UserError: it has not sat one.
    """
    record = facts.read(index_ref, KIND)
    if record is None:
        raise UserError(
            f"{store.pin(index_ref)} has sat no exam, so that there is no best mode to take: "
            "run workflows.exam_index on it, or name a mode"
        )
    return RetrieveConfig.model_validate(record["config"])
