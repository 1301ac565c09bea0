"""Traces: what a model solved itself, as demonstrations and pairs."""

import json

import pytest

from components.config import UserError
from components.data import store
from components.data.build import Cleaning, refuse_others, write_traces
from components.data.generated_tasks import TaskConfig
from components.data.preference_files import preference_row
from components.data.traces import Solution, TraceConfig, asked, hinted, make, unsolved, write_held_out
from components.reasoning.conversation import STEPS_REQUEST, extended
from components.reasoning.verify import by_answer, by_vote

CONFIG = TraceConfig(generated=TaskConfig(arithmetic=20, stories=0, logic=0), test_share=0.3)


def judge(task, solved):
    return by_answer(task.question, task.answer, [each.text for each in solved])


def vote(task, solved):
    texts, finished = [each.text for each in solved], [each.finished for each in solved]
    return by_vote(task.question, texts, 0.4, finished)


def solved(questions, *kinds):
    """Solutions of each question by kind: right, wrong, cut (right, but cut off), other right words, empty."""
    texts = {
        "right": lambda task: Solution(f"{task.reasoning}\nAnswer: {task.answer}", True),
        "also right": lambda task: Solution(f"So #### {task.answer}", True),
        "wrong": lambda task: Solution(f"Answer: {int(task.answer) + 1}", True),
        "none": lambda task: Solution("I do not know", True),
        "cut": lambda task: Solution(f"Answer: {task.answer}", False),
        "empty": lambda task: Solution("  ", True),
    }
    return {each.prompt_id: [texts[kind](each.task) for kind in kinds] for each in questions}


def test_the_prompt_is_the_one_that_is_served():
    (first, *_) = asked(CONFIG, 1)
    assert first.prompt == extended([{"role": "user", "content": first.task.question}], STEPS_REQUEST)
    row = preference_row({}, first.prompt, "a", "b", "", source="x")
    assert row["prompt_id"] == first.prompt_id, "the id that other tables give the same prompt"


def test_questions_are_split_for_good_and_the_held_out_ones_are_a_task_file(tmp_path):
    questions = asked(CONFIG, 1)
    assert questions == asked(CONFIG, 1) and len({each.prompt_id for each in questions}) == 20
    assert {each.split for each in questions} == {"train", "test"}
    rows = [json.loads(line) for line in write_held_out(tmp_path / "h.jsonl", questions).read_text().splitlines()]
    assert [row["question"] for row in rows] == [each.task.question for each in questions if each.split == "test"]
    assert set(rows[0]) == {"question", "reasoning", "answer", "kind"}


def test_right_solutions_are_demonstrated_and_win_over_wrong_ones():
    questions = asked(CONFIG, 1)
    made = make(questions, solved(questions, "wrong", "right", "none", "also right", "wrong"), judge, CONFIG)
    assert len(made.demonstrations) == 20 and len(made.pairs) == 40
    first, task = questions[0], questions[0].task
    assert made.demonstrations[0]["completion"][0]["content"] == f"{task.reasoning}\nAnswer: {task.answer}"
    mine = [row for row in made.pairs if row["prompt_id"] == first.prompt_id]
    assert [row["rejected"][0]["content"] for row in mine] == [f"Answer: {int(task.answer) + 1}", "I do not know"]
    assert [row["chosen"][0]["content"] for row in mine] == [
        f"{task.reasoning}\nAnswer: {task.answer}",
        f"So #### {task.answer}",
    ]
    assert {row["split"] for row in made.pairs} == {"train", "test"} and mine[0]["split"] == first.split
    assert all(row["chosen_score"] > row["rejected_score"] and row["source"] == "traces" for row in made.pairs)
    assert made.figures["traces/accuracy"] == 2 / 5 and made.figures["traces/solved"] == 20


def test_what_was_cut_off_can_lose_but_not_win():
    questions = asked(CONFIG, 1)
    with pytest.raises(UserError, match="none of 40 solutions of 20 questions is right"):
        make(questions, solved(questions, "cut", "empty"), judge, CONFIG)
    wrong = {
        each.prompt_id: [Solution("Answer: -1", False), *own]
        for each, own in zip(questions, solved(questions, "right").values(), strict=True)
    }
    made = make(questions, wrong, judge, CONFIG)
    assert len(made.pairs) == 20 and made.figures["traces/cut_off"] == 20


def test_what_was_not_solved_is_tried_again_with_the_answer_in_sight():
    questions = asked(CONFIG, 1)
    train = [each for each in questions if each.split == "train"]
    first = solved(questions, "wrong") | solved(train[:1], "right")
    again = unsolved(questions, first, judge)
    assert again == train[1:], "test questions are never hinted"
    told = hinted(again[0])
    assert (
        told.prompt_id == again[0].prompt_id and f"The answer is {again[0].task.answer}." in told.prompt[0]["content"]
    )
    config = CONFIG.model_copy(update={"rationalize": True})
    made = make(questions, first, judge, config, solved(again, "right"))
    assert made.figures["traces/rationalized"] == len(train) - 1
    assert [row["prompt"] for row in made.demonstrations] == [each.prompt for each in train]
    assert {row["prompt_id"] for row in made.pairs} <= {train[0].prompt_id}, "a rationalized text wins over none"


def test_losers_of_a_vote_make_pairs_without_a_known_answer():
    texts = ["Answer: 5", "so 5", "Answer: 4", "no idea", "Answer: 5.0"]
    assert by_vote("What is 2 + 3?", texts, 0.6) == [True, True, False, False, True]
    assert by_vote("What is 2 + 3?", texts, 0.7) == [None] * 5
    assert by_vote("What is 2 + 3?", ["", ""], 0.1) == [None, None]
    assert by_answer("What is 2 + 3?", "5", texts) == [True, True, False, False, True]
    questions = asked(CONFIG, 1)
    made = make(
        questions,
        solved(questions, "right", "also right", "wrong"),
        vote,
        CONFIG,
    )
    assert len(made.pairs) == 20
    with pytest.raises(UserError):
        make(questions, solved(questions, "right", "wrong"), lambda task, given: [None] * len(given), CONFIG)


def test_what_was_cut_off_has_no_vote():
    texts = ["Answer: 5", "so 5", "then 4", "and 4", "with 4", "first 5"]
    finished = [True, True, False, False, False, False]
    assert by_vote("What is 2 + 3?", texts, 0.3, finished) == [True, True, False, False, False, True]
    assert by_vote("What is 2 + 3?", texts, 0.3) == [None] * 6, "a tie, if all voted"
    assert by_vote("What is 2 + 3?", texts, 0.4, finished) == [None] * 6, "two of six are too few"
    questions = asked(CONFIG, 1)
    wrong = {each.prompt_id: [Solution("Answer: -1", False)] * 3 for each in questions}
    own = {each: [*wrong[each], *right] for each, right in solved(questions, "right", "also right").items()}
    made = make(questions, own, vote, CONFIG)
    assert len(made.pairs) == 20 and {row["rejected"][0]["content"] for row in made.pairs} == {"Answer: -1"}


def test_what_was_written_with_the_answer_in_sight_is_judged_by_that_answer():
    """Of three such solutions two agree on a wrong answer: a vote would demonstrate them."""
    questions = [each for each in asked(CONFIG, 1) if each.split == "train"]
    config = CONFIG.model_copy(update={"rationalize": True, "demonstrations": 3})
    told = solved(questions, "wrong", "wrong", "right")
    made = make(questions, solved(questions, "empty"), vote, config, told, judge)
    texts = [row["completion"][0]["content"] for row in made.demonstrations]
    assert texts == [f"{each.task.reasoning}\nAnswer: {each.task.answer}" for each in questions]


def test_tables_are_written_and_described(tmp_path):
    questions = asked(CONFIG, 1)
    made = make(questions, solved(questions, "right", "wrong"), judge, CONFIG)
    built = write_traces(str(tmp_path), made, Cleaning(None, lambda: None))
    assert store.count(built.tables["demonstrations"]) == store.count(built.tables["preferences"]) == 20
    assert built.figures["traces/right"] == 20 and built.card["pairs"] == 20


def test_questions_of_a_file_are_solved_too(tmp_path):
    file = tmp_path / "t.jsonl"
    file.write_text("\n".join(json.dumps({"question": f"q{n}", "answer": f"a\n#### {n}"}) for n in range(5)))
    questions = asked(TraceConfig(file=str(file), limit=3), 0)
    assert [each.task.answer for each in questions] == ["0", "1", "2"]
    with pytest.raises(UserError, match="there are no questions"):
        asked(TraceConfig(generated=TaskConfig(arithmetic=0, stories=0, logic=0)), 0)


@pytest.mark.parametrize(
    "given", [("i", None, {}, "m"), (None, "f", {}, "m"), (None, None, {"a": "f"}, "m"), (None, None, {}, None)]
)
def test_traces_have_a_model_and_no_other_source(given):
    with pytest.raises(UserError, match="traces are a model's own solutions"):
        refuse_others(*given)
    refuse_others(None, None, {}, "m")
