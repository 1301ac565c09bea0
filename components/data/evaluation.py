"""How answers to held-out questions become metrics with intervals; the same for every model and the server."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from components.config import UserError
from components.data.judge import Judgement, judge
from components.data.questions import context_id
from components.data.records import Question
from components.data.statistics import interval

Metrics = dict[str, dict[str, float]]


def held_out_questions(ref: str, limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` rows of a questions table's test split, in the table's order.

    Raises:
        UserError: the table is none of questions, or has no test rows.
    """
    from components.data.schemas import QUESTION

    return _held_out(ref, limit, QUESTION.names)


def held_out_pairs(ref: str, limit: int | None = None) -> list[dict[str, Any]]:
    """The first `limit` rows of a preference table's test split. Raises as `held_out_questions`."""
    return _held_out(ref, limit, ("prompt_id", "prompt", "chosen", "rejected"))


def _held_out(ref: str, limit: int | None, columns: Sequence[str]) -> list[dict[str, Any]]:
    from components.data import store

    store.check_columns(ref, columns)
    rows = store.read(ref, where="split = 'test'", require=True)
    return rows if limit is None else rows[:limit]


def judge_answers(questions: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> list[Judgement]:
    """The judgement of each answer (its `text`) to the question at the same place."""
    if len(questions) != len(answers):
        raise UserError(f"got {len(answers)} answers to {len(questions)} questions: give one for each, in order")
    return [
        judge(answer["text"], Question.from_row(dict(question)))
        for question, answer in zip(questions, answers, strict=True)
    ]


def write_answers(path: Path, questions: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> Path:
    """Write each question with its answer and judgement as a line of JSON; nothing half-written is ever seen."""
    part = path.with_suffix(".part")
    lines = [json.dumps(row, ensure_ascii=False) for row in judged_rows(questions, answers)]
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def judged_rows(questions: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Each question with its answer and judgement, as a person reads them."""
    names = ("prompt_id", "kind", "answerable", "target", "question", "reference")
    return [
        {name: question[name] for name in names}
        | {"answer": answer["text"], "tokens": answer["tokens"], "finished": answer["finished"]}
        | asdict(judgement)
        | {"passages": [passage["text"] for passage in question["passages"]]}
        for question, answer, judgement in zip(questions, answers, judge_answers(questions, answers), strict=True)
    ]


def evaluate_answers(
    questions: Sequence[Mapping[str, Any]], answers: Sequence[Mapping[str, Any]], *, seed: int = 0
) -> Metrics:
    """Metrics with 95 % intervals of `answers` (`text` and `tokens` each) to rows of a questions table.

    grounded_rate is over the answerable questions, abstention_rate over the others, score their mean,
    answer_tokens over all. Whole contexts (questions over the same passages) are drawn. What no question of a kind was
    asked for is left out: JSON knows no NaN.
    """
    judged = judge_answers(questions, answers)
    clusters = [context_id(Question.from_row(dict(question))) for question in questions]
    asked = list(zip(questions, judged, strict=True))
    grounded = [float(j.grounded) if q["answerable"] else None for q, j in asked]
    abstained = [None if q["answerable"] else float(j.correct) for q, j in asked]
    tokens = [float(answer["tokens"]) for answer in answers]
    every = {
        "score": interval([grounded, abstained], clusters, seed=seed),
        "grounded_rate": interval([grounded], clusters, seed=seed),
        "abstention_rate": interval([abstained], clusters, seed=seed),
        "answer_tokens": interval([tokens], clusters, seed=seed),
    }
    return {name: figures for name, figures in every.items() if not math.isnan(figures["mean"])}


def evaluate_pairs(
    pairs: Sequence[Mapping[str, Any]], logprobs: Sequence[Sequence[float]], *, seed: int = 0
) -> Metrics:
    """preference_accuracy: share of pairs whose chosen answer has the higher log-probability per token.

    `logprobs` holds (chosen, rejected) of each pair: natural log, means over the tokens. With sums, a one-line
    abstention would beat every answer, whatever the model prefers. No reference model is subtracted, so a base
    model can be measured, too. Pairs with the same prompt are drawn together; a tie counts half.
    """
    wins = [1.0 if chosen > rejected else 0.5 if chosen == rejected else 0.0 for chosen, rejected in logprobs]
    return {"preference_accuracy": interval([wins], [pair["prompt_id"] for pair in pairs], seed=seed)}


def figure(evaluation: dict[str, Any], metric: str, which: str) -> float:
    """Return one figure of an evaluation, in which it stands as a number or as ``{"mean": …}``.

    Raises:
        UserError: the evaluation has no such metric, or it is no number.
    """
    value = evaluation.get(metric)
    value = value.get("mean") if isinstance(value, dict) else value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        has = ", ".join(sorted(evaluation)) or "nothing"
        raise UserError(f"'{which}' has no figure '{metric}' (it has {has}): give another metric or evaluation")
    return float(value)
