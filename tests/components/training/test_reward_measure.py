"""What a process reward model's rewards are divided by: steps and worst steps, by hand."""

import math
from types import SimpleNamespace

import pytest

from components.models.rewards import RewardInfo
from components.models.step_rewards import worst_step
from components.training.reward_measure import _of_steps

TEXTS = {1: "a", 2: "\n", 3: ""}  # 3 is the turn end
TEMPLATE = SimpleNamespace(text_of=lambda ids: "".join(TEXTS[each] for each in ids))
INFO = RewardInfo.unscaled("process", 2, "base", "digest", "template")
# Two steps each, ended by the line break and by the turn end; the first step of the second has no label.
ROWS = [
    {"prompt_ids": [9], "answer_ids": [1, 2, 1, 3], "ends": [1, 3]},
    {"prompt_ids": [8], "answer_ids": [1, 2, 1, 3], "ends": [3]},
]
REWARDS = [[[1.0, 0.0], [3.0, 4.0]], [[-5.0, 8.0], [2.0, 2.0]]]


def model(rewards):
    def score_steps(prompts, answers, ends):
        assert (prompts, ends) == ([[9], [8]], [[1, 3], [1, 3]])
        return rewards

    return SimpleNamespace(score_steps=score_steps)


def test_steps_are_measured_where_there_is_a_label_and_worst_steps_everywhere():
    """Labelled: 1, 3, 2 and 0, 4, 2. Worst, so normalised: 1 and -5 of the first head, 0 and 2 of the second."""
    found = _of_steps(model(REWARDS), ROWS, TEMPLATE, INFO)
    assert found.mean == pytest.approx((2.0, 2.0))
    assert found.std == pytest.approx((math.sqrt(2 / 3), math.sqrt(8 / 3)))
    one, two = found.std
    assert found.worst_mean == pytest.approx(((-2.0 - 2.0) / one, (1.0 - 2.0) / two))
    assert found.worst_std == pytest.approx((3.0 / one, 1.0 / two))
    normalised = [[[(a - 2.0) / one, (b - 2.0) / two] for a, b in own] for own in REWARDS]
    answers = [worst_step(own, found) for own in normalised]
    assert answers == [pytest.approx([1.0, -1.0]), pytest.approx([-1.0, 1.0])]


def test_worst_steps_that_are_alike_stay_in_units_of_steps(caplog):
    found = _of_steps(model([[[0.0, 1.0], [2.0, 3.0]], [[0.0, 1.0], [4.0, 5.0]]]), ROWS, TEMPLATE, INFO)
    assert (found.worst_mean, found.worst_std) == ((), ()) and found.std[0] > 1
    assert "worst steps of 2 held-out solutions are alike" in caplog.text
