"""Figures of answers and pairs, from judged rows and log-probabilities, with arithmetic by hand."""

import json

import pytest

from components.config import UserError
from components.data import records, store
from components.data.contexts import QuestionConfig
from components.data.evaluation import evaluate_answers, evaluate_pairs, held_out_pairs, held_out_questions, judged_rows
from components.data.grounding import ABSTENTION
from components.data.questions import make_questions
from tests.components.data.corpora import passages


@pytest.fixture(scope="module")
def questions():
    return [q.row() for own in make_questions(passages(), QuestionConfig(), seed=3) for q in own]


def answers(texts):
    return [{"text": text, "tokens": len(text.split()), "finished": True} for text in texts]


def test_references_score_one_and_abstaining_always_scores_half(questions):
    best = evaluate_answers(questions, answers([q["reference"] for q in questions]))
    assert {name: best[name]["mean"] for name in ("score", "grounded_rate", "abstention_rate")} == {
        "score": 1.0,
        "grounded_rate": 1.0,
        "abstention_rate": 1.0,
    }
    never = evaluate_answers(questions, answers([ABSTENTION] * len(questions)))
    assert never["score"]["mean"] == 0.5 and never["grounded_rate"]["mean"] == 0.0
    assert never["answer_tokens"]["mean"] == 3.0
    assert never["grounded_rate"]["n"] == sum(q["answerable"] for q in questions)
    assert never["abstention_rate"]["n"] == sum(not q["answerable"] for q in questions)


@pytest.mark.parametrize("answerable", [True, False])
def test_what_was_not_asked_has_no_figure(questions, answerable):
    asked = [q for q in questions if q["answerable"] == answerable]
    found = evaluate_answers(asked, answers([q["reference"] for q in asked]))
    assert set(found) == {"grounded_rate" if answerable else "abstention_rate", "answer_tokens"}
    json.dumps(found, allow_nan=False)


def test_a_missing_answer_is_refused(questions):
    with pytest.raises(UserError, match="one for each"):
        evaluate_answers(questions, answers(["x"]))


def test_rows_for_people_hold_the_judgement(questions):
    row = judged_rows(questions[:1], answers([questions[0]["reference"]]))[0]
    assert row["score"] == 1.0 and row["answer"] == row["reference"] and len(row["passages"]) == 3


def test_preference_accuracy_counts_wins_and_half_of_ties():
    pairs = [{"prompt_id": str(i)} for i in range(4)]
    found = evaluate_pairs(pairs, [(-1.0, -2.0), (-3.0, -2.0), (-1.0, -1.0), (-0.5, -0.7)])["preference_accuracy"]
    assert found["mean"] == 2.5 / 4 and found["n"] == 4


def test_only_the_test_split_is_held_out(questions, tmp_path):
    ref = store.overwrite(str(tmp_path / "db"), "questions", questions, records.QUESTION)
    found = held_out_questions(ref)
    assert [q["prompt_id"] for q in found] == [q["prompt_id"] for q in questions if q["split"] == "test"]
    assert held_out_questions(ref, 2) == found[:2]
    only_train = store.overwrite(
        str(tmp_path / "db"), "t", [q for q in questions if q["split"] == "train"], records.QUESTION
    )
    with pytest.raises(UserError, match="has no rows"):
        held_out_questions(only_train)
    with pytest.raises(UserError, match="has no column 'chosen'"):
        held_out_pairs(ref)
