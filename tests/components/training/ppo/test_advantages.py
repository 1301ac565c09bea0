"""Advantages against slow loops over lists of chosen tokens, with poison in every place that is none."""

import math

import pytest
import torch

from components.training.ppo.advantages import gae, group_relative, leave_one_out, scale, token_rewards, whiten


def alone(values):
    """What is summed over one worker."""
    return values


def slow_gae(rewards, values, gamma, lam):
    """Equation 16 of Schulman et al. 2016 as a double sum over the chosen tokens of one answer."""
    count = len(rewards)
    nexts = [*values[1:], 0.0]
    deltas = [rewards[t] + gamma * nexts[t] - values[t] for t in range(count)]
    advantages = [sum((gamma * lam) ** (s - t) * deltas[s] for s in range(t, count)) for t in range(count)]
    return advantages, [advantage + value for advantage, value in zip(advantages, values, strict=True)]


def experience(seed=0, shape=(3, 4, 9)):
    """(rewards, values, mask) in float64, no two rows masked alike."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    return rewards, values, torch.rand(shape, generator=generator) < 0.6


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 1.0), (0.97, 0.0)])
def test_gae_is_the_slow_double_sum_over_chosen_tokens(gamma, lam):
    rewards, values, mask = experience()
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for row in range(3):
        for column in range(4):
            own = mask[row, column]
            expected = slow_gae(rewards[row, column][own].tolist(), values[row, column][own].tolist(), gamma, lam)
            assert advantages[row, column][own].tolist() == pytest.approx(expected[0])
            assert returns[row, column][own].tolist() == pytest.approx(expected[1])
            assert not advantages[row, column][~own].any() and not returns[row, column][~own].any()


@pytest.mark.parametrize("span", [0, 1, 2, 20, 100])
def test_a_tool_span_of_any_length_changes_nothing(span):
    """Four chosen tokens, reward 1 at the last, every value 0.5, gamma 1, lambda 0.95.

    The deltas are 0, 0, 0 and 0.5, so the advantages are 0.5 x 0.95^3, 0.95^2, 0.95, 1. The second token stands
    just before the span: 0.45125.
    """
    mask = torch.tensor([True, True] + [False] * span + [True, True])
    rewards = torch.zeros(len(mask))
    rewards[-1] = 1.0
    advantages, returns = gae(rewards, torch.full((len(mask),), 0.5), mask, 1.0, 0.95)
    expected = [0.5 * 0.95**power for power in (3, 2, 1, 0)]
    assert advantages[mask].tolist() == pytest.approx(expected)
    assert advantages[1].item() == pytest.approx(0.451, abs=5e-4)
    assert returns[mask].tolist() == pytest.approx([0.5 + x for x in expected])


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e9])
def test_padding_and_what_stands_in_it_change_nothing(poison):
    rewards, values, mask = experience(1)
    expected = gae(rewards, values, mask, 0.99, 0.9)
    bad = torch.full((3, 4, 7), poison, dtype=torch.float64)
    wide = torch.cat([mask, torch.zeros(3, 4, 7, dtype=torch.bool)], -1)
    found = gae(
        torch.cat([rewards.masked_fill(~mask, poison), bad], -1),
        torch.cat([values.masked_fill(~mask, poison), bad], -1),
        wide,
        0.99,
        0.9,
    )
    for ours, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(ours[..., :9], wanted)
        assert not ours[..., 9:].any()
        torch.testing.assert_close(
            whiten(ours.masked_fill(~wide, poison), wide, alone)[..., :9], whiten(wanted, mask, alone)
        )


def test_the_score_is_at_the_last_chosen_token():
    mask = torch.tensor([[True, True, False, True, False], [True, False, False, False, False], [False] * 5])
    penalties = torch.tensor([0.1, 0.2, math.nan, 0.4, math.nan]).expand(3, 5)
    steps = torch.tensor([1.0, 0.0, math.nan, 2.0, math.nan]).expand(3, 5)
    scores = torch.tensor([10.0, 20.0, 30.0])
    assert token_rewards(scores, penalties, mask).flatten().tolist() == pytest.approx(
        [-0.1, -0.2, 0, 10 - 0.4, 0, 20 - 0.1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    )
    assert token_rewards(scores, penalties, mask, steps).flatten().tolist() == pytest.approx(
        [1 - 0.1, -0.2, 0, 10 - 0.4 + 2, 0, 20 - 0.1 + 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    )


@pytest.mark.parametrize("shift", [True, False])
def test_whitened_values_have_variance_1_and_their_mean_as_asked(shift):
    _, values, mask = experience(2)
    values = 3.0 * values + 5.0
    found = whiten(values, mask, alone, shift=shift)[mask]
    mean = 0.0 if shift else values[mask].mean().item()
    assert found.mean().item() == pytest.approx(mean, abs=1e-9)
    assert found.var(correction=0).item() == pytest.approx(1.0)
    torch.testing.assert_close(found.argsort(), values[mask].argsort())


@pytest.mark.parametrize("shift", [True, False])
def test_two_workers_whiten_as_one(shift):
    """Each worker's sums, in the order in which it asks for them, are added to the other's."""
    _, values, mask = experience(3)
    parts = [(values[:1], mask[:1]), (values[1:], mask[1:])]
    asked = [[], []]
    for rank, (own, own_mask) in enumerate(parts):

        def note(sums, rank=rank):
            asked[rank].append(sums.clone())
            return sums

        whiten(own, own_mask, note, shift=shift)
    # The second sum depends on the mean of all, so it is taken again once that is known.
    first = asked[0][0] + asked[1][0]
    squares = sum((own[own_mask] - first[1] / first[0]).square().sum() for own, own_mask in parts)
    found = []
    for own, own_mask in parts:
        totals = iter([first, squares[None]])
        found.append(whiten(own, own_mask, lambda sums, totals=totals: next(totals), shift=shift))
    torch.testing.assert_close(torch.cat(found), whiten(values, mask, alone, shift=shift))


def test_values_that_are_all_the_same_whiten_to_0():
    mask = torch.tensor([True, True, False])
    assert whiten(torch.tensor([7.0, 7.0, 9.0]), mask, alone).tolist() == [0.0, 0.0, 0.0]
    assert whiten(torch.tensor([7.0, 7.0, 9.0]), torch.zeros(3, dtype=torch.bool), alone).tolist() == [0.0] * 3


def test_leave_one_out_by_hand():
    """1, 2 and 6: against the means of the others 4, 3.5 and 1.5."""
    mask = torch.tensor([[[True, True], [True, False], [True, True]]])
    found = leave_one_out(torch.tensor([[1.0, 2.0, 6.0]]), mask)
    assert found[0].tolist() == [[-3.0, -3.0], [-1.5, 0.0], [4.5, 4.5]]


def relative(returns, mask):
    return group_relative(returns, torch.zeros_like(returns), mask)


@pytest.mark.parametrize("estimate", [leave_one_out, relative])
def test_advantages_of_a_prompt_sum_to_0_and_know_no_other_prompt(estimate):
    returns = torch.randn(5, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    mask = torch.ones(5, 4, 1, dtype=torch.bool)
    found = estimate(returns, mask)[..., 0]
    torch.testing.assert_close(found.sum(1), torch.zeros(5, dtype=torch.float64))
    moved = returns.clone()
    moved[0] = moved[0] * 9 + 100
    torch.testing.assert_close(estimate(moved, mask)[1:, :, 0], found[1:])
    torch.testing.assert_close(estimate(returns + 100, mask)[..., 0], found)


def test_a_group_is_measured_in_its_deviations():
    """1, 2, 3 and 6: mean 3, deviation sqrt(3.5)."""
    mask = torch.tensor([[[True, False]] * 4])
    found = relative(torch.tensor([[1.0, 2.0, 3.0, 6.0]]), mask)
    assert found[0, :, 0].tolist() == pytest.approx([x / math.sqrt(3.5) for x in (-2, -1, 0, 3)])
    assert not found[0, :, 1].any()


def test_a_prompt_whose_answers_all_got_the_same_says_nothing():
    mask = torch.ones(2, 3, 2, dtype=torch.bool)
    returns = torch.tensor([[0.1, 0.1, 0.1], [0.0, 0.0, 1.0]])
    found = relative(returns, mask)
    assert not found[0].any() and found[1].any() and found.isfinite().all()
    assert not leave_one_out(returns, mask)[0].any() and leave_one_out(returns, mask)[1].any()


def test_where_scores_tie_only_the_penalties_count_by_their_own_size():
    """Four answers got 0, four 0 and 1: the first are held back by 0.1 nats' worth, not by deviations of that."""
    scores = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 1.0]])
    held = torch.tensor([[0.0, 0.0, 0.0, 0.03]] * 2)
    found = group_relative(scores, held, torch.ones(2, 4, 1, dtype=torch.bool))[..., 0]
    assert found[0].tolist() == pytest.approx([0.01, 0.01, 0.01, -0.03])
    assert found[1].tolist() == pytest.approx([-0.99, 1.01, -0.99, 0.97])


@pytest.mark.parametrize("score", [0.15, 0.65, 0.7, 0.8])
def test_ties_are_not_scaled_into_something(score):
    """In float32 eight equal scores are not quite the mean of the other seven."""
    returns, mask = torch.tensor([[score] * 8, [1.0] * 8]), torch.ones(2, 8, 1, dtype=torch.bool)
    assert not scale(leave_one_out(returns, mask), mask, alone).any()


def test_a_prompt_without_a_best_answer_stays_at_0_beside_one_whose_best_are_short():
    """Long wrong answers weigh more than short right ones in a mean over tokens: shifting by it would praise a tie."""
    mask = torch.arange(40) < torch.tensor([[25, 25, 25, 25], [10, 10, 40, 40]])[..., None]
    returns = torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]])
    found = scale(leave_one_out(returns, mask), mask, alone)
    assert not found[0].any()
    assert found[mask].square().mean().item() == pytest.approx(1.0, rel=1e-5)
    assert (found[1, 0, 0] / found[1, 2, 0]).item() == pytest.approx(-1.0)
