"""What a run tells of itself, over two workers and by hand."""

import pytest
import torch

from components.training.ppo.experience import Answer, Experience
from components.training.ppo.figures import Scores, explained_variance, held_out_rewards, objective, show_answers


def drawn_of(lengths, finished):
    answers = [[Answer([5] * n, [-1.0] * n, end) for n, end in zip(lengths, finished, strict=True)]]
    drawn = Experience([[1]], answers)
    for number, name in enumerate(("old", "entropy", "values", "returns")):
        value = 0.1 * (number + 1) * torch.arange(drawn.mask.numel()).view(drawn.mask.shape)
        setattr(drawn, name, torch.where(drawn.mask, value, torch.zeros(())))
    return drawn


def scores_of(*totals):
    total = torch.tensor([totals])
    return Scores(total, 2 * total, 3 * total, 0.5 * total)


def test_figures_are_means_over_answers_or_tokens():
    """Answers of 1 and 3 tokens in a row of width 3: places 0, then 3, 4, 5."""
    drawn = drawn_of([1, 3], [True, False])
    kl = torch.where(drawn.mask, 0.5, 0.0)
    rewards = torch.where(drawn.mask, 2.0, 0.0)
    found = objective(drawn, scores_of(1.0, 3.0), kl, rewards, 0.5 * kl, lambda sums: sums)
    assert found["objective/kl"] == 4 * 0.5 / 2 and found["rollout/tokens"] == 2.0
    assert found["objective/reward"] == 2.0 and found["objective/scores"] == 4.0 and found["objective/judge"] == 6.0
    assert found["objective/disagreement"] == 1.0 and found["rollout/finished"] == 0.5
    assert found["objective/rlhf_reward"] == 4.0 and found["objective/non_score_reward"] == -0.5
    assert found["objective/entropy"] == pytest.approx(0.2 * (0 + 3 + 4 + 5) / 4)
    assert found["rollout/engine_gap"] == pytest.approx(((0.1 * (0 + 3 + 4 + 5)) + 4) / 4)  # |old - -1|
    assert found["rollout/distinct_2"] == pytest.approx(0.5, abs=1e-4)  # 5 5 twice
    assert found["objective/frac_reward_zero_std"] == 0.0
    tied = objective(drawn, scores_of(3.0, 3.0), kl, rewards, 0.5 * kl, lambda sums: sums)
    assert tied["objective/frac_reward_zero_std"] == 1.0


def test_figures_of_two_workers_are_one():
    """A worker with more answers and tokens weighs more."""
    parts = [drawn_of([1, 3], [True, False]), drawn_of([2, 2, 5], [True, True, False])]
    scores = [scores_of(1.0, 3.0), scores_of(-1.0, 0.0, 7.0)]
    sums = [[], []]

    def figures(rank, reduce):
        drawn = parts[rank]
        kl = drawn.values
        first = objective(drawn, scores[rank], kl, drawn.returns, 0.1 * kl, reduce)
        return first | {"explained": explained_variance(drawn, reduce)}

    def noting(rank):
        return lambda values: sums[rank].append(values) or values

    for rank in (0, 1):
        figures(rank, noting(rank))
    totals = [a + b for a, b in zip(*sums, strict=True)]
    found = []
    for rank in (0, 1):
        replay = iter(totals)
        found.append(figures(rank, lambda values, replay=replay: next(replay)))
    assert found[0] == found[1]
    assert found[0]["objective/reward"] == pytest.approx((1 + 3 - 1 + 0 + 7) / 5)
    assert found[0]["rollout/tokens"] == pytest.approx((4 + 9) / 5)
    values, returns = (torch.cat([getattr(part, name)[part.mask] for part in parts]) for name in ("values", "returns"))
    expected = 1 - (returns - values).var(correction=0) / returns.var(correction=0)
    assert found[0]["explained"] == pytest.approx(expected.item(), rel=1e-4)
    entropies = torch.cat([part.entropy[part.mask] for part in parts])
    assert found[0]["objective/entropy"] == pytest.approx(entropies.mean().item(), rel=1e-5)


def test_a_perfect_critic_explains_all_and_one_that_says_0_nothing():
    drawn = drawn_of([1, 3], [True, False])
    drawn.values = drawn.returns.clone()
    assert explained_variance(drawn, lambda sums: sums) == 1.0
    drawn.values = torch.zeros_like(drawn.returns)
    assert explained_variance(drawn, lambda sums: sums) == pytest.approx(0.0)
    drawn.returns = torch.where(drawn.mask, 3.0, 0.0)
    assert explained_variance(drawn, lambda sums: sums) == 0.0


def test_held_out_rewards_are_the_judges_where_there_is_one():
    raw, judged = torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])
    assert held_out_rewards(Scores(raw, raw, None, raw)) == [1.0, 3.0]
    assert held_out_rewards(Scores(raw, raw, judged, raw)) == [0.0, 1.0]


def test_answers_are_shown_with_what_they_got():
    drawn = drawn_of([1, 3], [True, False])
    rows = [{"prompt_ids": [1], "question": "why?"}]
    (shown,) = show_answers(rows, drawn, scores_of(1.0, 3.0), lambda ids: f"{len(ids)} tokens")
    expected = {"question": "why?", "answer": "1 tokens", "reward": 2.0, "judge": 3.0, "finished": True}
    assert shown == {"place": 0, **expected}
