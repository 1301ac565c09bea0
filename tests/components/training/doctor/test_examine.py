"""Each training is looked over as what it is: its own tables, limits and refusals."""

import pytest

from components.config import UserError
from components.data import store
from components.data.schemas import LABELLED, PREFERENCE, QUESTION, STEPS
from components.training.doctor.examine import examine
from components.training.doctor.findings import State
from tests.workflows.toy import write_tables
from workflows.pipeline import schema_of


def _said(text: str, role: str = "assistant") -> list[dict]:
    return [{"role": role, "content": text}]


@pytest.fixture(scope="module")
def uri(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("doctor")
    write_tables(folder, train=30, test=10)
    uri = str(folder / "lancedb")
    rows = [
        {"prompt_id": f"q{number}", "prompt": _said(f"What is {number} + 2?", "user"), "split": split}
        for number, split in enumerate(("train", "train", "test"))
    ]
    common = {"kind": "what", "source": "test"}
    steps = {"steps": [{"text": "as it is", "label": 1.0}], "outcome": True}
    solutions = [{**row, **common, **steps, "step_id": row["prompt_id"]} for row in rows]
    store.write(uri, "steps", solutions, schema=STEPS, key="step_id")
    store.write(uri, "untested", solutions[:2], schema=STEPS, key="step_id")
    asked = {"question": "2 + 2?", "kind": "what", "answerable": False, "passages": [], "target": 0, "reference": "4"}
    store.write(uri, "questions", [{**row, **asked} for row in rows], schema=QUESTION, key="prompt_id")
    labelled = [
        {**row, **common, "answer_id": row["prompt_id"], "completion": _said("so"), "label": number == 0}
        for number, row in enumerate(rows)
    ]
    store.write(uri, "labelled", labelled, schema=LABELLED, key="answer_id")
    pair = {"chosen": _said("yes"), "rejected": _said("no"), "chosen_score": 1.0, "rejected_score": 0.0}
    pairs = [{**row, **common, **pair, "pair_id": row["prompt_id"]} for row in rows]
    store.write(uri, "tested", pairs[2:], schema=PREFERENCE, key="pair_id")
    pairs.append({**pairs[0], "pair_id": "broken", "rejected": [{"role": "assistant", "content": None}]})
    store.write(uri, "broken", pairs, schema=PREFERENCE, key="pair_id")
    return uri


@pytest.fixture
def look(uri, tiny_model_dir, tmp_path):
    def found(training: str, rows: int = 100, **values) -> dict:
        tables = ("demonstrations", "preferences", "steps", "prompts")
        values = {key: f"{uri}#{value}" if key in tables else value for key, value in values.items()}
        config = schema_of(training)(model=str(tiny_model_dir), storage=str(tmp_path), **values)
        return {one.check: one for one in examine(config, rows=rows)}

    return found


TRAININGS = {
    "train_sft": {"demonstrations": "demonstrations"},
    "train_dpo": {"preferences": "preferences"},
    "train_reward": {"preferences": "preferences"},
    "train_ppo": {"prompts": "questions", "reward": {"judge": 1.0}},
}


@pytest.mark.parametrize("training", TRAININGS)
def test_each_training_on_good_rows_has_no_problem(training, look):
    found = look(training, **TRAININGS[training])
    assert not [one for one in found.values() if one.state is State.PROBLEM]
    (table,) = (key for key in TRAININGS[training] if key != "reward")
    assert {f"{table}: splits", f"{table}: length", f"{table}: leaks", "turn end", "context"} <= set(found)
    assert {"memory", "disk"} <= set(found)


def test_a_process_reward_is_trained_on_steps_and_only_measured_on_pairs(look):
    found = look("train_reward", steps="steps", preferences="tested")
    assert not [one for one in found.values() if one.state is State.PROBLEM]
    assert found["preferences: splits"].text == "1 rows held out" and "preferences: ties" not in found
    assert found["steps: labels"].state is State.FINE and found["steps: steps"].state is State.FINE


def test_a_reward_without_held_out_rows_is_a_problem_as_it_is_measured_on_them(look):
    assert look("train_reward", steps="steps")["steps: splits"].state is State.FINE
    found = look("train_reward", steps="untested")["steps: splits"]
    assert found.state is State.PROBLEM and "2 rows to train on, 0 held out" in found.text
    with pytest.raises(UserError, match="names no table"):
        look("train_reward")


def test_labelled_answers_are_for_kto_alone(look):
    found = look("train_dpo", preferences="labelled", loss={"name": "kto"})
    assert "50% of the answers are good" in found["preferences: labels"].text
    with pytest.raises(UserError, match=r"set loss\.name=kto"):
        look("train_dpo", preferences="labelled")
    with pytest.raises(UserError, match="has no column 'pair_id'"):
        look("train_reward", preferences="labelled")


def test_a_table_of_another_kind_is_refused_by_the_column_that_it_lacks(look):
    with pytest.raises(UserError, match="has no column 'completion'"):
        look("train_sft", demonstrations="preferences")
    with pytest.raises(UserError, match="has no column 'answerable'"):
        look("train_ppo", prompts="preferences", reward={"judge": 1.0})


def test_pairs_as_prompts_are_measured_without_their_answers(look):
    found = look("train_ppo", prompts="preferences", max_prompt_tokens=70)
    assert found["prompts: length"].state is State.FINE and "prompts: answers" not in found


def test_rows_without_text_are_told_and_the_others_looked_at(look):
    found = look("train_dpo", preferences="broken")
    assert found["preferences: rows"].state is State.PROBLEM and "1 have no text" in found["preferences: rows"].text
    assert found["preferences: splits"].text.startswith("2 rows to train on, 1 held out")


def test_a_condition_on_rows_holds_here_too(look):
    found = look("train_dpo", preferences="preferences", where="pair_id = 'p3'")
    assert found["preferences: splits"].text.startswith("1 rows to train on, 10 held out")


def test_an_adapter_that_the_training_would_refuse_is_refused_here(look):
    with pytest.raises(UserError, match="adalora has no step to shrink at"):
        look("train_dpo", preferences="preferences", adapter={"name": "adalora"}, optim={"epochs": 0.3})  # one step


def test_rows_that_were_not_looked_at_may_be_as_long_as_the_limit(look):
    seen = look("train_sft", demonstrations="demonstrations", max_tokens=5000)
    assert seen["context"].state is State.FINE
    found = look("train_sft", rows=3, demonstrations="demonstrations", max_tokens=5000)
    assert found["context"].state is State.LOOK and "others may have 5000" in found["context"].text
    assert found["memory"].text != seen["memory"].text


def test_what_does_not_fit_the_limit_leaves_no_row_for_the_context(look):
    found = look("train_dpo", preferences="preferences", max_tokens=8)
    assert found["preferences: length"].state is found["preferences: held-out rows"].state is State.PROBLEM
    assert "the longest row has 0" in found["context"].text
