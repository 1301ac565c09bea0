"""What a PPO run tells of itself: the figures of each iteration, and some answers to read.

Shapes: P prompts of this worker, K answers to each, R tokens of the longest answer.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from components.training.ppo.advantages import TIE, Reduce
from components.training.ppo.experience import Experience, distinct_share, pair_places


@dataclass(frozen=True)
class Scores:
    """What an answer got: [P, K] each, and [P, K, R] where steps were rewarded."""

    total: torch.Tensor  # clipped and weighted: with ``steps``, what is maximized
    raw: torch.Tensor  # the reward models' combined reward
    judged: torch.Tensor | None
    disagreement: torch.Tensor  # standard deviation of the reward models' heads
    steps: torch.Tensor | None = None


def objective(
    drawn: Experience,
    scores: Scores,
    kl: torch.Tensor,
    rewards: torch.Tensor,
    penalties: torch.Tensor,
    reduce: Reduce,
) -> dict[str, float]:
    """Return means over all workers' answers; of entropy and of gaps (|differences| of log-probabilities), over tokens.

    Args:
        kl: [P, K, R] estimates of each token; ``objective/kl`` is their sum over an answer, nats.
        rewards: [P, K, R], what is maximized: scores less the KL penalty.
        penalties: [P, K, R], that penalty, 0 where KL is in the loss.
    """
    mask, answers = drawn.mask, [answer for own in drawn.answers for answer in own]
    finished = float(sum(answer.finished for answer in answers))
    of_answers = {
        "objective/kl": kl.sum(),
        "objective/scores": scores.raw.sum(),
        "objective/reward": scores.total.sum() + (scores.steps.sum() if scores.steps is not None else 0.0),
        "objective/rlhf_reward": rewards.sum(),
        "objective/non_score_reward": -penalties.sum(),
        "objective/disagreement": scores.disagreement.sum(),
        "rollout/tokens": mask.sum(),
        "rollout/finished": torch.tensor(finished),
    }
    paid_PK = scores.total if scores.steps is None else scores.total + scores.steps.sum(-1)
    if (samples := paid_PK.shape[1]) > 1:  # the share of prompts from which a baseline of their own leaves nothing
        of_answers["objective/frac_reward_zero_std"] = (paid_PK.std(1, correction=0) <= TIE).sum() * samples
    if scores.judged is not None:
        of_answers["objective/judge"] = scores.judged.sum()
    gap = (drawn.old - drawn.engine).abs() * mask
    of_tokens = {
        "objective/entropy": (drawn.entropy * mask).sum(),
        "objective/reference_gap": ((drawn.old - drawn.reference).abs() * mask).sum(),
        "rollout/engine_gap": gap.sum(),
    }
    count, tokens = reduce(torch.tensor([float(len(answers)), float(mask.sum())], dtype=torch.float64)).tolist()
    found = reduce(torch.stack([value.double() for value in (of_answers | of_tokens).values()])).tolist()
    sums = dict(zip(of_answers | of_tokens, found, strict=True))
    means = {name: value / (tokens if name in of_tokens else count) for name, value in sums.items()}
    return means | {"rollout/distinct_2": distinct_share(reduce(pair_places(drawn.answers)))}


def explained_variance(drawn: Experience, reduce: Reduce) -> float:
    """Return 1 - Var(returns - values) / Var(returns), over all workers' tokens."""
    mask = drawn.mask
    sums = []
    for values in (drawn.returns - drawn.values, drawn.returns):
        kept = values[mask].double()
        sums += [kept.sum(), kept.square().sum()]
    found = reduce(torch.stack([*sums, mask.sum().double()])).tolist()
    count = found[4]
    error, whole = (found[at + 1] / count - (found[at] / count) ** 2 for at in (0, 2))
    return 1 - error / whole if whole > 1e-12 else 0.0


def speeds(phases: Mapping[str, float], seconds: float, drawn: Experience, reduce: Reduce) -> dict[str, float]:
    """Return the seconds of each phase, and tokens/s and samples/s of all workers' answers."""
    counted = torch.tensor([float(drawn.tokens), float(drawn.mask.shape[0] * drawn.mask.shape[1])], dtype=torch.float64)
    tokens, samples = reduce(counted).tolist()
    figures = {f"time/{phase}": spent for phase, spent in phases.items()}
    figures |= {f"tokens_per_s/{phase}": tokens / max(spent, 1e-9) for phase, spent in phases.items()}
    return figures | {"time/iteration": seconds, "samples_per_s": samples / max(seconds, 1e-9)}


def held_out_rewards(scores: Scores) -> list[float]:
    """Return what each held-out prompt's answer got, from the judge where there is one: rewards cannot move it."""
    return (scores.judged if scores.judged is not None else scores.raw).mean(1).tolist()


def show_answers(
    rows: Sequence[Any], drawn: Experience, scores: Scores, decode: Callable[[list[int]], str]
) -> list[dict]:
    """Return some answers with what they got, for a person to read."""
    shown = []
    for p, row in enumerate(rows[:8]):
        answer = drawn.answers[p][0]
        shown.append(
            {
                "place": p,
                "question": row.get("question") or decode(list(row["prompt_ids"])[-80:]),
                "answer": decode(answer.ids),
                "reward": round(float(scores.raw[p, 0]), 3),
                "judge": None if scores.judged is None else round(float(scores.judged[p, 0]), 3),
                "finished": answer.finished,
            }
        )
    return shown


class Timer:
    """Adds the seconds of a block to a phase."""

    def __init__(self, seconds: dict[str, float], phase: str) -> None:
        self.seconds, self.phase = seconds, phase

    def __enter__(self) -> None:
        self.started = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + time.monotonic() - self.started
