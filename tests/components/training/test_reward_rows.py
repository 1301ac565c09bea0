"""What a reward model is trained and measured on."""

import random

import pytest

from components.config import UserError
from components.data import store
from components.data.chat import ChatTemplate
from components.data.records import PREFERENCE
from components.data.schemas import STEPS
from components.data.votes import VotesConfig
from components.training.reward import RewardLossConfig
from components.training.reward_rows import HowToRead, read

OTHER = {"chosen": "rejected", "rejected": "chosen"}


def row(number, split, votes):
    texts = {side: [{"role": "assistant", "content": f"{side} {number}"}] for side in ("chosen", "rejected")}
    common = {
        "pair_id": f"{split}{number}",
        "prompt_id": f"{split}{number}",
        "split": split,
        "kind": "k",
        "source": "s",
    }
    listed = [{"annotator": who, "prefers": said} for who, said in votes.items()]
    prompt = [{"role": "user", "content": f"{number}?"}]
    return common | texts | {"prompt": prompt, "chosen_score": 1.0, "rejected_score": 0.0, "votes": listed}


def how(**changes):
    values = {"votes": VotesConfig(method="dawid_skene"), "loss": RewardLossConfig(), "max_tokens": 256}
    return HowToRead(**{**values, "held_out": 10, "seed": 0, **changes})


def test_an_annotator_is_known_by_the_votes_of_both_splits(tmp_path, tiny_model_dir, make_run):
    """One says the contrary of two others on 120 training pairs. Held-out pairs have one of those and the contrarian.

    From these alone nobody could say who is right.
    """
    rng = random.Random(0)
    truths = [rng.choice(["chosen", "rejected"]) for _ in range(124)]
    rows = [
        row(n, "train", {"ann": truth, "bob": truth, "contrarian": OTHER[truth]})
        for n, truth in enumerate(truths[:120])
    ]
    rows += [row(n, "test", {"ann": truth, "contrarian": OTHER[truth]}) for n, truth in enumerate(truths[120:])]
    table = store.write(str(tmp_path), "preferences", rows, schema=PREFERENCE, key="pair_id")
    template = ChatTemplate.from_folder(tiny_model_dir)
    found = read(table, None, template, make_run(), how())
    assert len(found.training.rows) == 120 and found.figures["votes/ties"] == 0
    assert found.figures["votes/swapped"] == truths.count("rejected")
    meant = {f"test{n}": f"{truth} {n}" for n, truth in enumerate(truths[120:])}
    assert {one["pair_id"]: one["chosen"][0]["content"] for one in found.held_out} == meant


def test_pairs_without_a_held_out_one_are_refused(tmp_path, tiny_model_dir, make_run):
    table = store.write(str(tmp_path), "preferences", [row(0, "train", {})], schema=PREFERENCE, key="pair_id")
    with pytest.raises(UserError, match="no rows in split 'test'"):
        read(table, None, ChatTemplate.from_folder(tiny_model_dir), make_run(), how())


def solution(number, split, *steps):
    return {
        "step_id": f"{split}{number}",
        "prompt_id": f"{split}{number}",
        "prompt": [{"role": "user", "content": f"{number}?"}],
        "steps": [{"text": text, "label": label} for text, label in steps],
        "outcome": True,
        "kind": "sampled",
        "split": split,
        "source": "s",
    }


def test_solutions_of_which_nothing_can_be_read_are_left_out_and_counted(tmp_path, tiny_model_dir, make_run):
    """Nothing is learned from them, but they would be divided by."""
    rows = [
        solution(0, "train", ("2+3 = 5", 1.0), ("5*2 = 11", 0.0)),
        solution(1, "train", (" ", 1.0), ("5*2 = 10", 1.0)),
        solution(2, "train", (" ", 1.0), ("5*2 = 10", None)),
        solution(3, "train", ("2+3 = 5", None)),
        solution(4, "test", ("2+3 = 5", 1.0)),
        solution(5, "test", ("", 1.0), ("2+3 = 5", None)),
    ]
    template = ChatTemplate.from_folder(tiny_model_dir)
    table = store.write(str(tmp_path), "steps", rows, schema=STEPS, key="step_id")
    found = read(None, table, template, make_run(), how())
    assert sorted(one["step_labels"] for one in found.training.rows) == [[1.0], [1.0, 0.0]]
    assert len(found.training.lengths) == 2 and len(found.held_out_steps.rows) == 1
    assert found.figures == {"rows/train": 2, "rows/dropped": 0, "rows/unread": 1, "rows/unread_steps": 2}

    table = store.write(str(tmp_path), "blank", rows[2:3] + rows[4:], schema=STEPS, key="step_id")
    with pytest.raises(UserError, match=r"no labelled step of split 'train' .* can be read"):
        read(None, table, template, make_run(), how())
