"""What steers and what stops a run: each guard on both sides of its bound."""

import math

import pytest

from components.training.ppo.control import Guards, KlControl
from components.training.ppo.settings import GuardConfig, KlConfig

FINE = {
    "update/skipped": 0.0,
    "update/first_log_ratio": 0.0,
    "objective/kl": 0.0,
    "objective/entropy": 1.0,
    "objective/disagreement": 0.2,
    "rollout/tokens": 20.0,
    "rollout/engine_gap": 0.01,
    "rollout/distinct_2": 0.9,
}


def control(target=6.0, coefficient=0.1):
    return KlControl(KlConfig(target=target, coefficient=coefficient, horizon=1000))


@pytest.mark.parametrize(
    ("kl", "factor"),
    [
        (6.0, 1.0),
        (6.6, 1 + 0.1 * 0.1),  # a tenth over the target, a tenth of the horizon
        (5.4, 1 - 0.1 * 0.1),
        (60.0, 1 + 0.2 * 0.1),  # the error is held at a fifth
        (-3.0, 1 - 0.2 * 0.1),
    ],
)
def test_the_coefficient_follows_the_kl(kl, factor):
    found = control()
    found.update(kl, 100)
    assert found.coefficient == pytest.approx(0.1 * factor)


def test_the_coefficient_stays_above_0_however_many_answers_there_are():
    found = control()
    found.update(0.0, 50_000)
    assert found.coefficient > 0


def test_without_a_target_the_coefficient_is_fixed():
    found = control(target=None)
    found.update(100.0, 100)
    assert found.coefficient == 0.1
    found.cool()
    assert found.coefficient == 0.2


def test_a_control_may_go_on_from_where_it_was():
    assert KlControl(KlConfig(coefficient=0.1), 0.7).coefficient == 0.7
    assert KlControl(KlConfig(coefficient=0.1), 0.0).coefficient == 0.0


@pytest.mark.parametrize(
    ("name", "fine", "bad", "said"),
    [
        ("objective/kl", 39.0, 41.0, "KL to the reference is 41.0 nats per answer"),
        ("rollout/engine_gap", 0.14, 0.16, "engine and trainer differ by 0.160 nats per token"),
        ("update/first_log_ratio", 0.04, 0.06, "log-ratio before the first update is 0.0600"),
    ],
)
def test_a_figure_beyond_its_bound_stops_the_run(name, fine, bad, said):
    guards = Guards(GuardConfig())
    assert guards.breach({**FINE, name: fine}, first=False) is None
    assert said in (guards.breach({**FINE, name: bad}, first=False) or "")


@pytest.mark.parametrize("name", ["objective/kl", "rollout/engine_gap", "update/first_log_ratio"])
def test_a_figure_that_is_not_a_number_stops_the_run(name):
    assert Guards(GuardConfig()).breach({**FINE, name: math.nan}, first=False)


def test_before_training_the_kl_is_0():
    """20 tokens an answer at up to 0.05 nats: 1 nat. Later the KL may be what it likes below its bound."""
    guards = Guards(GuardConfig())
    assert guards.breach({**FINE, "objective/kl": 0.9}, first=True) is None
    for kl in (1.1, -1.1):
        assert "before training, not 0" in (guards.breach({**FINE, "objective/kl": kl}, first=True) or "")
        assert guards.breach({**FINE, "objective/kl": kl}, first=False) is None


def test_gradients_that_are_not_finite_stop_the_run_only_in_a_row():
    guards = Guards(GuardConfig(max_skipped=2))
    bad = {**FINE, "update/skipped": 1.0}
    assert [guards.breach(figures, first=False) for figures in (bad, bad, FINE, bad, bad)] == [None] * 5
    assert "not finite" in (guards.breach(bad, first=False) or "")


@pytest.mark.parametrize(
    ("name", "fine", "bad", "said"),
    [
        ("objective/entropy", 0.006, 0.004, "the policy has collapsed"),
        ("rollout/distinct_2", 0.06, 0.04, "the policy repeats itself"),
    ],
)
def test_a_policy_that_always_says_the_same_is_warned_of(name, fine, bad, said):
    guards = Guards(GuardConfig())
    assert guards.collapse({**FINE, name: fine}) is None and guards.alarms == 0
    assert said in (guards.collapse({**FINE, name: bad}) or "") and guards.alarms == 1


def test_heads_that_disagree_stop_the_run_or_cool_it():
    bad = {**FINE, "objective/disagreement": 1.01}
    cools, stops = Guards(GuardConfig(hacking="cool")), Guards(GuardConfig(hacking="stop"))
    for guards in (cools, stops):
        fine = {**FINE, "objective/disagreement": 0.99}
        assert guards.breach(fine, first=False) is None and guards.doubt(fine) is None
    assert cools.breach(bad, first=False) is None and "differ by 1.01 held-out deviations" in (cools.doubt(bad) or "")
    assert stops.doubt(bad) is None and "differ by 1.01 held-out deviations" in (stops.breach(bad, first=False) or "")
    assert Guards(GuardConfig(max_disagreement=None, hacking="stop")).breach(bad, first=False) is None


@pytest.mark.parametrize(
    ("looks", "alarms"),
    [
        ([(1, 5), (2, 4), (3, 3)], [False, False, True]),  # up and down, twice
        ([(1, 5), (2, 4), (3, 3), (4, 2)], [False, False, True, True]),
        ([(1, 5), (2, 4), (3, 4.5), (4, 4), (5, 3)], [False, False, False, False, True]),  # held-out rose in between
        ([(1, 5), (2, 4), (2, 3), (3, 2)], [False, False, False, False]),  # training did not rise in between
        ([(3, 5), (2, 4), (1, 3)], [False, False, False]),  # both fall: that is no hacking
    ],
)
def test_reward_that_rises_while_held_out_reward_falls_is_hacking(looks, alarms):
    guards = Guards(GuardConfig(patience=2))
    assert [guards.is_hacking(*look) for look in looks] == alarms


def test_patience_of_one_needs_two_looks():
    guards = Guards(GuardConfig(patience=1))
    assert [guards.is_hacking(*look) for look in [(1, 5), (2, 4)]] == [False, True]


def test_guards_go_on_from_their_state():
    """Also through JSON, which makes lists of tuples."""
    import json

    guards = Guards(GuardConfig(max_skipped=1, patience=2))
    guards.breach({**FINE, "update/skipped": 1.0}, first=False)
    guards.collapse({**FINE, "objective/entropy": 0.0})
    for look in [(1, 5), (2, 4)]:
        guards.is_hacking(*look)
    again = Guards(guards.config)
    again.restore(json.loads(json.dumps(guards.state())))
    assert again == guards
    assert again.breach({**FINE, "update/skipped": 1.0}, first=False)
    assert again.is_hacking(3, 3) and guards.looks == [(1, 5), (2, 4)]
