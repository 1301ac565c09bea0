"""A person's own labelled answers become a table, and what is wrong with a line is said by its number."""

import json

import pytest

from components.config import UserError
from components.data import label_card, store
from components.data.labelled_files import parse_answer, read_labelled, write_labelled
from components.data.preference_files import read_preferences
from components.data.records import LABELLED

USER = {"role": "user", "content": "Hello?"}


def write(path, rows):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


@pytest.mark.parametrize(
    ("row", "label"),
    [
        ({"prompt": "Hello?", "completion": "Yes.", "label": True}, True),
        ({"prompt": [USER], "completion": [{"role": "assistant", "content": "Yes."}], "label": 0}, False),
        ({"prompt": "\n\nHuman: Hello?\n\nAssistant:", "completion": " Yes.", "label": "bad"}, False),
    ],
)
def test_prompts_and_completions_as_in_a_file_of_pairs(row, label):
    assert parse_answer(row, "line 1") == ([USER], "Yes.", label)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"prompt": "a", "completion": "b"}, "line 1: the key 'label' is missing; it has completion, prompt"),
        ({"prompt": "a", "chosen": "b", "label": True}, "the key 'completion' is missing"),
        ({"prompt": "a", "completion": "b", "label": 2}, "'label' must be true or false"),
        ({"prompt": "a", "completion": "b", "label": [1]}, "'label' must be true or false"),
        ({"prompt": [USER], "completion": [USER, USER], "label": 1}, "the completion must be one assistant message"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, row, said):
    with pytest.raises(UserError, match=said):
        read_labelled(write(tmp_path / "labels.jsonl", [row]), 0.1)


def test_repeats_are_kept_once_and_contradictions_not_at_all(tmp_path):
    rows = [
        {"prompt": "One?", "completion": "Yes.", "label": True},
        {"prompt": "One?", "completion": "Yes.", "label": True},
        {"prompt": "One?", "completion": "No.", "label": True},
        {"prompt": "One?", "completion": "No.", "label": False},
        {"prompt": "Two?", "completion": " ", "label": False},
        {"prompt": "Two?", "completion": "Maybe.", "label": False},
    ]
    kept, left_out = read_labelled(write(tmp_path / "labels.jsonl", rows), 0.0)
    assert [(row["completion"][0]["content"], row["label"]) for row in kept] == [("Yes.", True), ("Maybe.", False)]
    assert left_out == {"repeated": 2, "conflicting": 1, "empty": 1, "contaminated_prompt": 0}


def test_a_file_says_itself_what_is_for_the_test_and_nothing_of_it_is_trained_on(tmp_path):
    rows = [
        {"prompt": "One?", "completion": "Yes.", "label": True, "split": "test"},
        {"prompt": "Two?", "completion": "Yes.", "label": True, "split": "train"},
        {"prompt": " ONE? ", "completion": "No.", "label": False, "split": "train"},
        {"prompt": "one?", "completion": "Perhaps.", "label": False, "split": None},
    ]
    kept, left_out = read_labelled(write(tmp_path / "labels.jsonl", rows), 0.0)
    assert [(row["completion"][0]["content"], row["split"]) for row in kept] == [("Yes.", "test"), ("Yes.", "train")]
    assert left_out["contaminated_prompt"] == 2
    twice = [{**rows[1], "split": "train"}, {**rows[1], "split": "test"}, {**rows[1], "completion": "No.", "label": 0}]
    kept, _ = read_labelled(write(tmp_path / "twice.jsonl", [*twice, rows[0]]), 0.0)
    assert [(row["completion"][0]["content"], row["split"]) for row in kept] == [("Yes.", "test"), ("Yes.", "test")]
    rows[1]["split"] = "dev"
    with pytest.raises(UserError, match="line 2: 'split' must be train or test, got 'dev'"):
        read_labelled(write(tmp_path / "labels.jsonl", rows), 0.0)


def test_a_file_of_nothing_but_contradictions_is_refused(tmp_path):
    rows = [{"prompt": "One?", "completion": "No.", "label": label} for label in (True, False)]
    with pytest.raises(UserError, match="1 answers that are empty or both good and bad"):
        read_labelled(write(tmp_path / "labels.jsonl", rows), 0.1)


def test_answers_to_one_prompt_are_on_one_side_and_good_ones_are_demonstrations(tmp_path):
    rows = [
        {"prompt": f"Question {number}?", "completion": f"Answer {side}.", "label": side != 1}
        for number in range(40)
        for side in range(3)
    ]
    path = write(tmp_path / "labels.jsonl", rows)
    tables, card = write_labelled(str(tmp_path), path, 0.25, "salt")
    answers = store.read(tables["answers"])
    assert store.open_table(tables["answers"]).schema.names == LABELLED.names and len(answers) == 120
    sides = {row["prompt_id"]: set() for row in answers}
    for row in answers:
        sides[row["prompt_id"]].add(row["split"])
    assert len(sides) == 40 and all(len(own) == 1 for own in sides.values())
    figures = label_card.figures(card)
    assert 0 < figures["answers/test"] < 60 and figures["answers/train"] + figures["answers/test"] == 120
    shown = store.read(tables["demonstrations"])
    assert len(shown) == 40 and all(row["completion"][0]["content"] == "Answer 0." for row in shown)


def test_a_prompt_is_on_the_side_that_a_file_of_pairs_puts_it_on(tmp_path):
    prompts = [f"Question {number}?" for number in range(40)]
    labelled = [{"prompt": prompt, "completion": "Yes.", "label": True} for prompt in prompts]
    pairs = [{"prompt": prompt, "chosen": "Yes.", "rejected": "No."} for prompt in prompts]
    answers, _ = read_labelled(write(tmp_path / "labels.jsonl", labelled), 0.5, "salt")
    compared = read_preferences(write(tmp_path / "pairs.jsonl", pairs), 0.5, "salt").rows
    sides = [{row["prompt_id"]: row["split"] for row in rows} for rows in (answers, compared)]
    assert sides[0] == sides[1] and set(sides[0].values()) == {"train", "test"}
