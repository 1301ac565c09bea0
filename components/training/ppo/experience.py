"""One iteration's answers with everything that is known of them, and how they become forward passes.

Shapes: P prompts, K answers to each, R tokens of the longest answer; N the tokens of one pass, in the order of
[K, p, R] that packing needs.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

_PLACES = 1 << 18


@dataclass
class Answer:
    """One answer as the engine drew it; ``logprobs`` are the engine's own, natural log, one a token."""

    ids: list[int]
    logprobs: list[float]
    finished: bool  # it ended by itself: False where it was cut off


@dataclass
class Experience:
    """Answers to P prompts; tensors are on the CPU, 0 outside ``mask``."""

    prompts: list[list[int]]
    answers: list[list[Answer]]
    mask: torch.Tensor = field(init=False)  # [P, K, R], True at an answer's tokens
    engine: torch.Tensor = field(init=False)  # log-probabilities of the engine
    old: torch.Tensor = field(init=False)  # of the trainer's policy before the update
    reference: torch.Tensor = field(init=False)
    entropy: torch.Tensor = field(init=False)
    values: torch.Tensor = field(init=False)
    advantages: torch.Tensor = field(init=False)
    returns: torch.Tensor = field(init=False)
    below: dict[int, torch.Tensor] = field(default_factory=dict)  # of each prompt, by number: see Roles.learn_below

    def __post_init__(self) -> None:
        width = max(len(answer.ids) for own in self.answers for answer in own)
        lengths = torch.tensor([[len(answer.ids) for answer in own] for own in self.answers])
        self.mask = torch.arange(width) < lengths[..., None]
        zeros = torch.zeros(self.mask.shape)
        self.engine = zeros.clone()
        self.engine[self.mask] = torch.tensor([x for own in self.answers for a in own for x in a.logprobs])
        for name in ("old", "reference", "entropy", "values", "advantages", "returns"):
            setattr(self, name, zeros.clone())

    def ids(self, numbers: Sequence[int]) -> tuple[list[list[int]], list[list[list[int]]]]:
        """Return prompts and answers of some prompts, as token ids."""
        return [self.prompts[n] for n in numbers], [[answer.ids for answer in self.answers[n]] for n in numbers]

    def known_below(self, numbers: Sequence[int]) -> list[torch.Tensor]:
        """Return ``below`` of some prompts, as a pass takes it; nothing where it was not kept."""
        return [self.below[n] for n in numbers if self.below]

    def flat(self, values: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
        """Return [P, K, R] values of some prompts' tokens as a pass has them: [N]."""
        return values[list(numbers)].transpose(0, 1)[self.mask[list(numbers)].transpose(0, 1)]

    def put(self, target: torch.Tensor, numbers: Sequence[int], values_N: torch.Tensor) -> None:
        """Write a pass's [N] values to their places in ``target`` [P, K, R]."""
        mask = self.mask[list(numbers)].transpose(0, 1)
        spread = torch.zeros(mask.shape).masked_scatter(mask, values_N.detach().float().cpu())
        target[list(numbers)] = spread.transpose(0, 1)

    def trust(self, forced: int) -> None:
        """Take the trainer's word for the first ``forced`` tokens of each answer, at which none could end.

        There the engine drew as if nothing that ends an answer had a probability, so that its own log-probabilities
        are of another distribution: they neither tell its weights from the trainer's nor weigh a token.
        """
        self.engine[..., :forced] = self.old[..., :forced]

    @property
    def tokens(self) -> int:
        """Return the number of tokens in all answers."""
        return int(self.mask.sum())


def passes(experience: Experience, micro_prompts: int) -> Iterator[list[int]]:
    """Yield the numbers of the prompts of each forward pass without gradient; prompts of like length go together."""
    order = sorted(range(len(experience.prompts)), key=lambda n: len(experience.prompts[n]))
    for start in range(0, len(order), micro_prompts):
        yield order[start : start + micro_prompts]


def minibatches(prompts: int, count: int, micro_prompts: int, seed: str) -> Iterator[list[list[int]]]:
    """Yield ``count`` minibatches, each a list of passes; a shuffle by ``seed`` that uses every prompt once."""
    order = list(range(prompts))
    random.Random(seed).shuffle(order)
    size = prompts // count
    for start in range(0, size * count, size):
        own = order[start : start + size]
        yield [own[at : at + micro_prompts] for at in range(0, size, micro_prompts)]


def pair_places(answers: Sequence[Sequence[Answer]]) -> torch.Tensor:
    """Return how many pairs of neighbouring tokens fall on each place of a table: tables of all workers can be added.

    Sets of pairs cannot, and a share of each worker's own pairs would be the larger the fewer answers it has.
    """
    pairs = [pair for own in answers for answer in own for pair in zip(answer.ids, answer.ids[1:], strict=False)]
    places = torch.tensor([hash(pair) % _PLACES for pair in pairs], dtype=torch.long)  # of whole numbers, ever the same
    return torch.bincount(places, minlength=_PLACES).double()


def distinct_share(table: torch.Tensor) -> float:
    """Return the share of different pairs among all that are in a table of ``pair_places``; 1 where there are none.

    Source: linear counting, Whang et al. 1990 (doi 10.1145/78922.78925), equation 3: of m places of which v are empty,
    m ln(m / v) different pairs are expected. An iteration's 10,000 pairs are so told to within a tenth of a percent.
    """
    pairs, empty = float(table.sum()), int((table == 0).sum())
    return min(1.0, _PLACES * math.log(_PLACES / max(1, empty)) / pairs) if pairs else 1.0


Draw = Callable[[list[list[int]], int], list[list[Answer]]]  # (prompts, seed) → K answers to each


def prompt_order(count: int, wanted: int, seed: int) -> list[int]:
    """Return row numbers of all iterations' prompts: pass after pass, each shuffled by the seed."""
    order: list[int] = []
    generator = random.Random(seed)
    while len(order) < wanted:
        once = list(range(count))
        generator.shuffle(once)
        order += once
    return order[:wanted]
