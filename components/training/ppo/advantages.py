"""From rewards to advantages: generalized advantage estimation, leave-one-out, group-relative; and whitening.

Shapes: P prompts, K answers to each, R tokens of an answer. A mask is True where the policy chose the token;
gaps in it are tokens that came from elsewhere (a tool's output).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

Reduce = Callable[["torch.Tensor"], "torch.Tensor"]  # sums a tensor over all workers
TIE = 1e-6  # answers whose returns deviate less from their mean got the same: float32 rounds by about that


def token_rewards(
    scores: "torch.Tensor", penalties: "torch.Tensor", mask: "torch.Tensor", steps: "torch.Tensor | None" = None
) -> "torch.Tensor":
    """Return each token's reward [..., R]: minus its penalty, plus the answer's score at its last chosen token.

    A row without a chosen token has no reward anywhere. What stands outside the mask is not read.

    Args:
        scores: [...] of the answers.
        penalties: [..., R], the KL term with its coefficient.
        steps: [..., R], rewards of single tokens (ends of steps).
    """
    import torch

    rewards = torch.where(mask, -penalties, 0.0)
    if steps is not None:
        rewards = rewards + torch.where(mask, steps, 0.0)
    places = torch.arange(mask.shape[-1], device=mask.device)
    last = torch.where(mask, places, -1).amax(-1)
    return rewards + torch.where(places == last[..., None], scores[..., None], 0.0)


def gae(
    rewards: "torch.Tensor", values: "torch.Tensor", mask: "torch.Tensor", gamma: float, lam: float
) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Return (advantages, returns), [..., R] each and 0 outside the mask; gaps are stepped over, as if not there.

    Source: Schulman et al. 2016 (arXiv 1506.02438) equation 16; the value after the last token is 0.
    """
    import torch

    advantages = torch.zeros_like(rewards)
    next_value = rewards.new_zeros(rewards.shape[:-1])
    running = torch.zeros_like(next_value)
    for t in reversed(range(rewards.shape[-1])):
        chosen = mask[..., t]
        delta = rewards[..., t] + gamma * next_value - values[..., t]
        running = torch.where(chosen, delta + gamma * lam * running, running)
        next_value = torch.where(chosen, values[..., t], next_value)
        advantages[..., t] = torch.where(chosen, running, 0.0)
    return advantages, torch.where(mask, advantages + values, 0.0)


def leave_one_out(returns_PK: "torch.Tensor", mask_PKR: "torch.Tensor") -> "torch.Tensor":
    """Return each answer's return minus the mean of the others' to its prompt, at each of its tokens.

    A prompt whose answers all got the same says nothing: its advantages are 0, not what rounding leaves of that, which
    whitening would make as large as any. Source: RLOO, Ahmadian et al. 2024 (arXiv 2402.14740) section 2.
    """
    import torch

    count = returns_PK.shape[1]
    others = (returns_PK.sum(1, keepdim=True) - returns_PK) / (count - 1)
    told = torch.where(returns_PK.std(1, correction=0, keepdim=True) > TIE, returns_PK - others, 0.0)
    return told[..., None] * mask_PKR


def group_relative(scores_PK: "torch.Tensor", held_PK: "torch.Tensor", mask_PKR: "torch.Tensor") -> "torch.Tensor":
    """Return each answer's score in standard deviations from its prompt's mean, less its KL penalty over the others'.

    A prompt whose answers all got the same says nothing: its scores' part is 0. Penalties (``held_PK``, sums over an
    answer) are not scaled: where scores tie, their own noise would be divided by itself, and no coefficient would
    matter. Source: GRPO, Shao et al. 2024 (arXiv 2402.03300) section 4.1, which has the KL in the loss.
    """
    import torch

    centred = scores_PK - scores_PK.mean(1, keepdim=True)
    deviation = scores_PK.std(1, correction=0, keepdim=True)
    scaled = torch.where(deviation > TIE, centred / deviation.clamp(min=TIE), 0.0)
    return scaled[..., None] * mask_PKR - leave_one_out(held_PK, mask_PKR)


def whiten(values: "torch.Tensor", mask: "torch.Tensor", reduce: Reduce, *, shift: bool = True) -> "torch.Tensor":
    """Return the values with variance 1 over all workers' masked entries, and mean 0 unless ``shift`` is False."""
    import torch

    kept = torch.where(mask, values, 0.0).double()
    count, total = reduce(torch.stack([mask.sum().double(), kept.sum()]))
    mean = total / count.clamp(min=1)
    centred = torch.where(mask, kept - mean, 0.0)
    (squares,) = reduce(centred.square().sum()[None])
    scaled = centred / (squares / count.clamp(min=1)).sqrt().clamp(min=1e-8)
    return torch.where(mask, scaled if shift else scaled + mean, 0.0).to(values.dtype)


def scale(values: "torch.Tensor", mask: "torch.Tensor", reduce: Reduce) -> "torch.Tensor":
    """Return the values divided by their root mean square over all workers' masked entries.

    For advantages that a baseline has centred prompt by prompt: their mean over tokens is not 0 where the better
    answers are the shorter ones, and shifted by it, prompts whose answers tie would be pushed.
    """
    import torch

    kept = torch.where(mask, values, 0.0).double()
    count, squares = reduce(torch.stack([mask.sum().double(), kept.square().sum()]))
    return (kept / (squares / count.clamp(min=1)).sqrt().clamp(min=1e-8)).to(values.dtype)
