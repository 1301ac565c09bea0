"""Answers over a real index, by a scripted model: the figures are those of what it says, and each leaves a trace."""

import json
from pathlib import Path

import pytest

from components.config import UserError
from components.models import engine
from components.retrieval import exam, facts
from components.retrieval.exam_questions import questions_from
from components.retrieval.rag_evaluation import RagEvaluation, run_evaluation
from components.retrieval.retrieve import Retriever
from components.retrieval.settings import RetrieveConfig
from components.tracking.run import client_of
from tests.workflows.deeds import write_deeds


class Template:
    """Gives a prompt to the scripted model as it is."""

    @staticmethod
    def prompt_ids(messages):
        return messages


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> str:
    return write_deeds(str(tmp_path_factory.mktemp("rag") / "lancedb"), minilm)


def _ask(index, minilm, make_run, monkeypatch, reply, **changes):
    def sample(rows, *_, **__):
        return [{"text": reply(row["prompt_ids"][-1]["content"]), "tokens": 7, "finished": True} for row in rows]

    monkeypatch.setattr(engine, "sample", sample)
    config = RagEvaluation(index=index, embedder=str(minilm), questions=20, unanswerable_share=0.5, **changes)
    run = make_run()
    return run, *run_evaluation(config, run, Template, minilm, None, 0)


def _first_sentence(prompt: str) -> str:
    shown = prompt.split("[1] ")[1].split("\n")[0].split(": ", 1)[-1]
    return f"[1] {shown.split('. ')[0]}."


def test_a_model_that_quotes_the_first_sentence_is_faithful_and_never_abstains(index, minilm, make_run, monkeypatch):
    run, outputs, metrics = _ask(index, minilm, make_run, monkeypatch, _first_sentence)
    assert metrics["faithfulness"] == metrics["citation_precision"] == metrics["citation_recall"] == 1.0
    assert metrics["abstention_recall"] == 0.0 and "abstention_precision" not in metrics
    assert metrics["context_recall"] > 0.7 and 0 < metrics["context_precision"] <= metrics["context_recall"]
    assert 0.1 < metrics["answer_relevance"] < 1 and metrics["answer_tokens"] == 7
    rows = [json.loads(line) for line in Path(outputs["answers"]).read_text().splitlines()]
    assert len(rows) == 20 and sum(row["expected"]["answerable"] for row in rows) == 10
    for row in rows:
        found = [passage["passage_id"] for passage in row["passages"]]
        assert row["expected"]["answerable"] or not set(row["expected"]["passage_ids"]) & set(found)
    client = client_of(run.tracking_uri)
    traces = client.search_traces(locations=[client.get_run(run.id).info.experiment_id], run_id=run.id)
    assert len(traces) == 20
    assert {span.name for span in traces[0].data.spans} == {"question", "retrieve", "search", "generate, all at once"}
    assert "faithfulness" in {assessment.name for assessment in traces[0].info.assessments}
    assert client.get_run(run.id).data.metrics["faithfulness/mean"] == 1.0
    assert "faithfulness | 1.000 [1.000, 1.000]" in Path(outputs["page"]).read_text()


def test_a_model_that_never_answers_abstains_rightly_half_of_the_time(index, minilm, make_run, monkeypatch):
    _, _, metrics = _ask(index, minilm, make_run, monkeypatch, lambda _: "I don't know.")
    assert metrics["abstention_recall"] == 1.0 and metrics["abstention_precision"] == 0.5
    assert "faithfulness" not in metrics and "answer_relevance" not in metrics


def test_it_answers_as_a_served_name_does_that_abstains_and_repairs(tmp_path, minilm, make_run, monkeypatch):
    """The threshold lies amid the similarities: below it the model is not asked, and a mark of no passage goes."""
    examined = write_deeds(str(tmp_path / "lancedb"), minilm)
    before = [one.question for one in questions_from(examined, 30, 0).values()]
    asked = []

    def wrong_mark(prompt):
        asked.append(prompt)
        return f"{_first_sentence(prompt).removeprefix('[1] ')} [9]"

    way = RetrieveConfig(k=10)  # the threshold goes by ten hits, of which the prompt has one
    retriever = Retriever(examined, minilm, way)
    record = {"config": way.model_dump(mode="json"), "asked": before}
    figures, rows = {}, {}

    def surest(row):
        (name,) = row["expected"]["passage_ids"]  # in this index a passage is a document
        hits = retriever.search(row["question"], 10, None if row["expected"]["answerable"] else f"doc_id <> '{name}'")
        assert len(row["passages"]) == 1 and hits[0].passage_id == row["passages"][0]["passage_id"]
        return max(hit.similarity or 0.0 for hit in hits)

    for threshold in (0.0, 0.55):
        asked.clear()
        facts.write(examined, exam.KIND, record | {"abstention": {"signal": "similarity", "threshold": threshold}})
        _, outputs, metrics = _ask(
            examined, minilm, make_run, monkeypatch, wrong_mark, abstain=True, citations="repair", passages=1
        )
        rows[threshold] = [json.loads(line) for line in Path(outputs["answers"]).read_text().splitlines()]
        figures[threshold] = metrics
        sure = [surest(row) > threshold for row in rows[threshold]]
        assert [row["asked_the_model"] for row in rows[threshold]] == sure and len(asked) == sum(sure)
        for row in rows[threshold]:
            assert row["asked_the_model"] or row["answer"] == "I don't know."
            assert "[9]" not in row["answer"]
    assert all(row["asked_the_model"] for row in rows[0.0]) and figures[0.0]["citation_precision"] == 1.0
    assert 0 < sum(row["asked_the_model"] for row in rows[0.55]) < 20
    assert figures[0.55]["abstention_recall"] > 0 == figures[0.0]["abstention_recall"]
    assert figures[0.0]["in_exam"] == 0.0 and not {row["question"] for row in rows[0.0]} & set(before)
    every = [one.question for one in questions_from(examined, 10_000, 0).values()]
    facts.write(examined, exam.KIND, record | {"asked": every})
    assert _ask(examined, minilm, make_run, monkeypatch, wrong_mark)[2]["in_exam"] == 1.0
    del record["asked"]  # as exams before did
    facts.write(examined, exam.KIND, record)
    assert "in_exam" not in _ask(examined, minilm, make_run, monkeypatch, wrong_mark)[2]


def test_a_search_by_words_is_measured_too(index, minilm, make_run, monkeypatch):
    """Nothing is searched by vectors then, but answers are compared with their questions."""
    _, _, figures = _ask(index, minilm, make_run, monkeypatch, _first_sentence, retrieve={"mode": "text"})
    assert figures["context_recall"] > 0.5 and 0 < figures["answer_relevance"] < 1


def test_what_cannot_be_measured_is_refused(index, minilm, make_run, monkeypatch):
    with pytest.raises(UserError, match=r"rag\.index"):
        _ask(None, minilm, make_run, monkeypatch, str)
    with pytest.raises(UserError, match=r"sat no exam.*exam_index"):
        _ask(index, minilm, make_run, monkeypatch, str, abstain=True)
    with pytest.raises(ValueError, match="leave out retrieve"):
        _ask(index, minilm, make_run, monkeypatch, str, abstain=True, retrieve={"mode": "hybrid"})
