"""What an answer is worth: reward models on the trunk or beside it, step rewards, the programmatic judge.

Shapes: P prompts, K answers to each, R tokens of the longest answer, H heads of a reward model.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from components.models.packing import Packed
from components.models.rewards import CombineConfig, RewardModel, combine, disagreement
from components.models.step_rewards import step_ends, worst_step
from components.training.ppo.experience import Experience, passes
from components.training.ppo.figures import Scores
from components.training.ppo.roles import Roles
from components.training.ppo.settings import RewardShape
from components.training.ppo.trunk import RewardOnTrunk

Judge = Callable[[Any, str], float]  # (row of the prompt, answer) → score in [0, 1]


@dataclass(frozen=True)
class Scorer:
    """Rewards the answers of an iteration."""

    roles: Roles
    shape: RewardShape
    combine: CombineConfig
    decode: Callable[[list[int]], str]
    judge: Judge | None
    micro_prompts: int

    def __call__(self, rows: Sequence[Any], drawn: Experience) -> Scores:
        """Return each answer's reward: weighted, clipped, less the penalty of one that was cut off."""
        shape = drawn.mask.shape[:2]
        heads: list[list[list[float]]] = [[[] for _ in own] for own in drawn.answers]
        steps = torch.zeros(drawn.mask.shape)
        rewards: list[RewardOnTrunk | RewardModel] = [*self.roles.trunk_rewards, *self.roles.own_rewards]
        of_steps = sum(reward.info.kind == "process" for reward in rewards)
        for reward in rewards:
            if reward.info.kind == "process":
                self._steps(reward, drawn, heads, steps, self.shape.steps / of_steps)
            else:
                self._whole(reward, drawn, heads)
        raw = torch.tensor([[combine(x, self.combine) if x else 0.0 for x in own] for own in heads]).view(shape)
        spread = torch.tensor([[disagreement(x) if x else 0.0 for x in own] for own in heads]).view(shape)
        judged = None
        total = self.shape.weight * raw
        if self.judge is not None:
            judged = torch.tensor(
                [
                    [self.judge(row, self.decode(answer.ids)) for answer in own]
                    for row, own in zip(rows, drawn.answers, strict=True)
                ]
            )
            total = total + self.shape.judge * judged
        finished = torch.tensor([[answer.finished for answer in own] for own in drawn.answers])
        total = total.clamp(-self.shape.clip, self.shape.clip) - self.shape.missing_eos * ~finished
        return Scores(total, raw, judged, spread, steps if of_steps and self.shape.steps else None)

    def _whole(self, reward: RewardOnTrunk | RewardModel, drawn: Experience, heads: list) -> None:
        """Append the rewards of whole answers to ``heads`` [P][K]."""
        if isinstance(reward, RewardModel):
            found = reward.score(*drawn.ids(range(len(drawn.prompts))))
            for p, own in enumerate(found):
                for k, values in enumerate(own):
                    heads[p][k] += values
            return
        with torch.no_grad():
            for numbers in passes(drawn, self.micro_prompts):
                packed = self._packed(reward, drawn, numbers)
                values = reward.score(packed, packed.last_B)
                for place, own in enumerate(values.tolist()):  # answers of all prompts by turns: see packing
                    heads[numbers[place % len(numbers)]][place // len(numbers)] += own

    def _steps(
        self, reward: RewardOnTrunk | RewardModel, drawn: Experience, heads: list, steps: torch.Tensor, weight: float
    ) -> None:
        """Add each step's reward, clipped, at the step's last token; append what the worst makes of it to ``heads``."""
        bound = self.shape.clip
        for p, own in enumerate(drawn.answers):
            ends = [step_ends(answer.ids, self.decode) for answer in own]
            if isinstance(reward, RewardModel):
                found = reward.score_steps([drawn.prompts[p]] * len(own), [answer.ids for answer in own], ends)
            else:
                found = self._steps_on_trunk(reward, drawn, p, ends)
            for k, (places, values) in enumerate(zip(ends, found, strict=True)):
                heads[p][k] += worst_step(values, reward.info)
                found_S = torch.tensor([combine(value, self.combine) for value in values])
                steps[p, k, places] += weight * found_S.clamp(-bound, bound)

    def _steps_on_trunk(
        self, reward: RewardOnTrunk, drawn: Experience, p: int, ends: list[list[int]]
    ) -> list[list[list[float]]]:
        with torch.no_grad():
            packed = self._packed(reward, drawn, [p])
            starts = torch.tensor([0, *[len(answer.ids) for answer in drawn.answers[p]]]).cumsum(0).tolist()
            places = [start + end for start, own in zip(starts, ends, strict=False) for end in own]
            values = reward.score(packed, packed.holds_N[torch.tensor(places, device=packed.holds_N.device)])
        return [part.tolist() for part in values.split([len(own) for own in ends])]

    def _packed(self, reward: RewardOnTrunk, drawn: Experience, numbers: list[int]) -> Packed:
        """Return what a pass reads; from what is known of the layers below, if this reward has no adapter there."""
        below = drawn.known_below(numbers) if reward.first_layer >= self.roles.first_layer else ()
        return self.roles.batch(*drawn.ids(numbers), below)[0]
