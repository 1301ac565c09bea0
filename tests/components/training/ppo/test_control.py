"""What steers and what stops a run: each guard on both sides of its bound."""

import itertools
import math

import pytest

from components.training.ppo.control import Guards, KlControl
from components.training.ppo.settings import GuardConfig, KlConfig

FINE = {
    "objective/kl": 0.0,
    "objective/scores": 0.5,
    "objective/reward": 0.5,
    "objective/reference_gap": 0.0,
    "objective/entropy": 1.0,
    "objective/disagreement": 0.2,
    "rollout/engine_gap": 0.0001,
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


def test_doubt_that_lasts_holds_the_policy_at_most_16_times_as_strongly():
    for coefficient, most in ((0.1, 1.6), (0.0, 0.16)):
        found = control(target=None, coefficient=coefficient)
        for _ in range(20):
            found.cool()
        assert found.coefficient == pytest.approx(most)
    steered = KlControl(KlConfig(coefficient=0.1, target=1.0), 5.0)  # where the target had already taken it
    steered.cool()
    assert steered.coefficient == 5.0


def test_a_control_may_go_on_from_where_it_was():
    assert KlControl(KlConfig(coefficient=0.1), 0.7).coefficient == 0.7
    assert KlControl(KlConfig(coefficient=0.1), 0.0).coefficient == 0.0


def guards_of(trainer="float32", engine="float32", **config):
    return Guards(GuardConfig(**config).in_formats(trainer, engine, gpu=False))


@pytest.mark.parametrize(
    ("name", "fine", "bad", "said"),
    [
        ("objective/kl", 39.0, 41.0, "KL to the reference is 41.0 nats per answer"),
        ("rollout/engine_gap", 0.0009, 0.0011, "engine and trainer differ by 0.0011 nats per token"),
    ],
)
def test_a_figure_beyond_its_bound_stops_the_run(name, fine, bad, said):
    guards = guards_of()
    assert guards.before_update({**FINE, name: fine}, first=False) is None
    assert said in (guards.before_update({**FINE, name: bad}, first=False) or "")
    assert guards.before_update({**FINE, name: math.nan}, first=False)


def test_the_first_step_is_made_where_the_ratio_is_1():
    guards = guards_of()
    assert guards.before_step(0.0009) is None
    assert "log-ratio before the first update is 0.0011" in (guards.before_step(0.0011) or "")
    assert guards.before_step(math.nan)


def test_before_training_the_policy_is_the_reference():
    """Token by token, whatever the sign: a KL that sums up to 0 is no sign of it. Later they may differ."""
    guards = guards_of()
    assert guards.before_update({**FINE, "objective/reference_gap": 0.0009}, first=True) is None
    apart = {**FINE, "objective/reference_gap": 0.0011}
    assert "does not start at its reference" in (guards.before_update(apart, first=True) or "")
    assert guards.before_update({**FINE, "objective/reference_gap": math.nan}, first=True)
    assert guards.before_update(apart, first=False) is None


@pytest.mark.parametrize(
    ("trainer", "engine", "gpu", "engine_gap", "ratio_gap"),
    [
        ("float32", "float32", False, 0.001, 0.001),
        ("float32", "float32", True, 0.15, 0.001),
        ("float32", "bfloat16", False, 0.15, 0.001),
        ("bfloat16", "bfloat16", False, 0.15, 0.05),
        ("bfloat16", "auto", True, 0.15, 0.05),
    ],
)
def test_bounds_are_as_narrow_as_the_number_format_allows(trainer, engine, gpu, engine_gap, ratio_gap):
    found = GuardConfig().in_formats(trainer, engine, gpu=gpu)
    assert (found.max_engine_gap, found.max_ratio_gap) == (engine_gap, ratio_gap)
    own = GuardConfig(max_engine_gap=0.3, max_ratio_gap=0.2).in_formats(trainer, engine, gpu=gpu)
    assert (own.max_engine_gap, own.max_ratio_gap) == (0.3, 0.2)


def test_gradients_that_are_not_finite_stop_the_run_only_in_a_row():
    guards = guards_of(max_skipped=2)
    bad, fine = {**FINE, "update/skipped": 1.0}, {**FINE, "update/skipped": 0.0}
    assert [guards.after_update(figures) for figures in (bad, bad, fine, bad, bad)] == [None] * 5
    assert "not finite" in (guards.after_update(bad) or "")


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
    cools, stops = guards_of(hacking="cool"), guards_of(hacking="stop")
    for guards in (cools, stops):
        fine = {**FINE, "objective/disagreement": 0.99}
        assert guards.before_update(fine, first=False) is None and guards.doubt(fine) is None
    assert cools.before_update(bad, first=False) is None and "differ by 1.01 held-out deviations" in (
        cools.doubt(bad) or ""
    )
    assert stops.doubt(bad) is None and "differ by 1.01 held-out deviations" in (
        stops.before_update(bad, first=False) or ""
    )
    assert guards_of(max_disagreement=None, hacking="stop").before_update(bad, first=False) is None


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
    assert [guards.is_hacking(training, [held_out]) for training, held_out in looks] == alarms


def test_patience_of_one_needs_two_looks():
    guards = Guards(GuardConfig(patience=1))
    assert [guards.is_hacking(*look) for look in [(1, [5]), (2, [4])]] == [False, True]


def test_a_fall_within_chance_is_none():
    """Four prompts: down by 1 in the mean with a standard error of 0.8, then by 0.5 with one of 1.0."""
    looks = [(1, [4.0, 4.0, 4.0, 4.0]), (2, [1.0, 4.0, 4.0, 3.0]), (3, [3.0, 2.0, 3.0, 2.0])]
    assert Guards(GuardConfig(patience=1)).is_hacking(*looks[0]) is False
    for (before, after), hacks in zip(itertools.pairwise(looks), (True, False), strict=True):
        guards = Guards(GuardConfig(patience=1))
        guards.is_hacking(*before)
        assert guards.is_hacking(*after) is hacks


def test_guards_go_on_from_their_state():
    """Also through JSON, which makes lists of tuples."""
    import json

    guards = guards_of(max_skipped=1, patience=2)
    assert guards.after_update({**FINE, "update/skipped": 1.0}) is None
    guards.collapse({**FINE, "objective/entropy": 0.0})
    for look in [(1, [5.0]), (2, [4.0])]:
        guards.is_hacking(*look)
    again = Guards(guards.config)
    again.restore(json.loads(json.dumps(guards.state())))
    assert again == guards
    assert again.after_update({**FINE, "update/skipped": 1.0})
    assert again.is_hacking(3, [3.0]) and guards.looks == [(1, [5.0]), (2, [4.0])]
