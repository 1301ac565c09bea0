"""When what was found is too weak to answer from: a threshold with a promise about false answers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from components.config import UserError
from components.data.statistics import interval

if TYPE_CHECKING:
    from components.retrieval.hits import Hit

Signal = Literal["similarity", "bm25", "score"]
SIGNALS: tuple[Signal, ...] = ("similarity", "bm25", "score")


@dataclass(frozen=True)
class Abstention:
    """Answer only where ``signal`` is above ``threshold``; what that was fitted for, and what it did elsewhere."""

    signal: Signal
    threshold: float
    max_false_answer_rate: float  # what was asked for
    false_answer_rate: dict[str, float]  # of held-out unanswerable questions, mean with its interval
    answer_rate: dict[str, float]  # of held-out answerable questions


def confidence(hits: "Sequence[Hit]", signal: Signal) -> float:
    """Return the largest ``signal`` among the hits; minus infinity where none has it."""
    return max((value for hit in hits if (value := getattr(hit, signal)) is not None), default=-math.inf)


def threshold_for(unanswerable: Sequence[float], max_rate: float) -> float:
    """Return the threshold that a new unanswerable question passes with probability ``max_rate`` at most.

    It is the ceil((n + 1) * (1 - max_rate))-th smallest of n held-out unanswerable questions' confidences. A new one
    of the same kind is equally likely to fall into each of the n + 1 gaps between them, so that it lies above with
    probability 1 - ceil((n + 1)(1 - max_rate)) / (n + 1) <= max_rate, whatever the distribution; ties count as below.
    Source: split conformal prediction, Vovk, Gammerman, Shafer 2005, "Algorithmic Learning in a Random World".

    Raises:
        UserError: there are too few questions to promise such a rate.
    """
    n = len(unanswerable)
    # Rounded: 0.95 * 20 is 19.000000000000004 for some factors, whose ceiling would be one too many.
    place = math.ceil(round((n + 1) * (1 - max_rate), 9))
    if place > n:
        need = math.ceil(round(1 / max_rate, 9)) - 1 if max_rate > 0 else math.inf
        raise UserError(
            f"a false-answer rate of {max_rate} needs {need} unanswerable questions at least, got {n}: "
            "ask more questions or allow a higher rate"
        )
    return sorted(unanswerable)[place - 1]


def fit(
    answerable: Sequence[dict[Signal, float]], unanswerable: Sequence[dict[Signal, float]], max_rate: float
) -> Abstention:
    """Return the threshold on the signal that tells the two kinds apart best.

    Every second question fits (which signal, and where the threshold is), the others measure what it does.

    Raises:
        UserError: there are too few unanswerable questions, as ``threshold_for`` says.
    """
    signal = max(
        SIGNALS, key=lambda name: _auc([q[name] for q in answerable[::2]], [q[name] for q in unanswerable[::2]])
    )
    threshold = threshold_for([question[signal] for question in unanswerable[::2]], max_rate)
    passed = [[float(question[signal] > threshold) for question in side[1::2]] for side in (unanswerable, answerable)]
    rates = [interval([values], [str(place) for place in range(len(values))]) for values in passed]
    return Abstention(signal, threshold, max_rate, *rates)


def answers(hits: "Sequence[Hit]", kept: Mapping[str, Any], fitted_on: int) -> bool:
    """Return whether hits are strong enough to answer from, by an abstention that was kept with the index.

    Args:
        hits: ``fitted_on`` of them at least, or all that there are.
        fitted_on: how many hits of a question the threshold was fitted on; more of them are seldom less sure.
    """
    return confidence(hits[:fitted_on], kept["signal"]) > kept["threshold"]


def _auc(high: Sequence[float], low: Sequence[float]) -> float:
    """Return the probability that one of ``high`` is above one of ``low``; a tie counts half."""
    wins = sum((a > b) + 0.5 * (a == b) for a in high for b in low)
    return wins / max(len(high) * len(low), 1)
