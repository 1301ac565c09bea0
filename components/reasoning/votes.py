"""Votes on answers: who leads, and whether the votes that are still to come can change it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Ballot:
    """The votes for one answer, which may be written in several ways."""

    answer: str  # as its first voter wrote it
    weight: float = 0.0
    voters: list[int] = field(default_factory=list)


class Tally:
    """Weighted votes, equal answers counted together; a vote weighs at most 1."""

    def __init__(self, same: Callable[[str, str], bool]) -> None:
        self._same = same
        self.ballots: list[Ballot] = []

    def add(self, answer: str, voter: int, weight: float = 1.0) -> None:
        """Count a vote; an empty answer is an abstention."""
        if not answer:
            return
        for ballot in self.ballots:
            if self._same(ballot.answer, answer):
                break
        else:
            ballot = Ballot(answer)
            self.ballots.append(ballot)
        ballot.weight += weight
        ballot.voters.append(voter)

    def ranking(self) -> list[Ballot]:
        """Return the ballots, most votes first; of equal ones the one that was there first."""
        return sorted(self.ballots, key=lambda ballot: -ballot.weight)

    def decided(self, remaining: int, confidence: float | None = None) -> bool:
        """Return whether the leader wins whatever ``remaining`` further votes say.

        With a ``confidence`` it is enough that the leader is ahead of the second with that probability: the share of
        the leader among the votes for both has the posterior Beta(leader + 1, second + 1), and has to be above 1/2.

        Source: Aggarwal et al. 2023, "Let's Sample Step by Step: Adaptive-Consistency" (the Beta stopping criterion).
        """
        ranking = self.ranking()
        if not ranking:
            return remaining == 0
        lead, second = ranking[0].weight, ranking[1].weight if len(ranking) > 1 else 0.0
        if lead > second + remaining or remaining == 0:
            return True
        return confidence is not None and _ahead(len(ranking[0].voters), _voters(ranking)) >= confidence


def _voters(ranking: list[Ballot]) -> int:
    return len(ranking[1].voters) if len(ranking) > 1 else 0


def _ahead(lead: int, second: int) -> float:
    """The probability that a share with the posterior Beta(lead + 1, second + 1) is above 1/2.

    For whole numbers it is a binomial tail: P(X <= lead) for X of lead + second + 1 fair coins.
    """
    coins = lead + second + 1
    return sum(math.comb(coins, heads) for heads in range(lead + 1)) / 2**coins


def weight_of(score: float) -> float:
    """Return the weight of a vote, 0 to 1, from a reward model's score: its logistic function."""
    return 1 / (1 + math.exp(-score)) if score > -700 else 0.0
