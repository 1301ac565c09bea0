"""Several annotators' votes on a pair: how far they agree, and the one label that training takes from them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from components.config import Config, Field

if TYPE_CHECKING:
    import pandas as pd

PREFERS = ("chosen", "rejected", "tie")  # what a vote may say of a pair as it is stored

_MACE_SEED = 0
_EVEN = 1e-9  # labels whose probabilities are this close lead together
_SIDES = (("chosen", "rejected"), ("chosen_score", "rejected_score"))

Row = Mapping[str, Any]
Votes = Sequence[Mapping[str, str]]


class VotesConfig(Config):
    """How several annotators' votes on a pair become one label."""

    method: Literal["majority", "dawid_skene", "mace"] = Field(
        "majority", description="who wins: most votes, or votes weighed by how reliable each annotator turns out to be"
    )
    min_agreement: float = Field(
        0.0, ge=0, le=1, description="share of a pair's votes (or probability of its label) that must back the label"
    )
    below: Literal["drop", "downweight"] = Field("drop", description="what happens to a pair under min_agreement")


@dataclass(frozen=True)
class Aggregated:
    """Pairs turned the way their annotators want them, each with a `weight`, and what was done to get there.

    Every pair that had votes was kept, dropped or tied: `voted` counts all three.
    """

    rows: list[dict[str, Any]]
    alpha: float | None  # of all votes; see krippendorff_alpha
    dropped: int  # agreement under min_agreement
    swapped: int  # kept, with chosen and rejected exchanged
    ties: int  # left out: the verdict is a tie, or two labels lead together
    voted: int


def krippendorff_alpha(rows: Sequence[Row]) -> float | None:
    """Krippendorff's alpha of all votes, a tie being a third answer: 1 is full agreement, 0 is chance, below is worse.

    Which answer of a pair is stored as "chosen" is no opinion of an annotator's, and usually already the label: counted
    as stored, nearly all votes would be "chosen", and agreeing on that would pass for chance. So each pair is counted
    in both orders, and alpha is the same however pairs are stored.
    None where it is not defined: no pair has two votes, or all votes are ties.

    Source: Krippendorff, Content Analysis (2004), section 11.3, nominal metric with missing values.
    """
    import krippendorff

    votes = [found for row in rows if len(found := _votes(row)) > 1]
    stored = [[count[label] for label in PREFERS] for count in (Counter(v["prefers"] for v in one) for one in votes)]
    counts = [*stored, *([rejected, chosen, tie] for chosen, rejected, tie in stored)]
    if sum(any(column) for column in zip(*counts, strict=True)) < 2:
        return None
    return float(krippendorff.alpha(value_counts=counts, level_of_measurement="nominal"))


def aggregate(rows: Sequence[Row], config: VotesConfig) -> Aggregated:
    """Give every pair one label and a weight; the rows given, which hold plain values, stay as they are.

    A pair without votes keeps its label and weighs 1. Where the verdict is "rejected", both sides, their scores
    and what its votes say are exchanged, so that the votes still fit the pair; `pair_id` goes on to name it. With
    ``below="downweight"`` a pair under `min_agreement` weighs agreement / min_agreement.

    Reliability is learnt from all pairs given, so give all that the annotators share, not one at a time.
    """
    voted = [number for number, row in enumerate(rows) if _votes(row)]
    found = _verdicts([_votes(rows[number]) for number in voted], config.method)
    verdicts = dict(zip(voted, found, strict=True))
    kept: list[dict[str, Any]] = []
    dropped = swapped = ties = 0
    for number, row in enumerate(rows):
        if number not in verdicts:
            kept.append({**row, "weight": 1.0})
            continue
        label, agreement = verdicts[number]
        weak = agreement < config.min_agreement - _EVEN  # a posterior may end a rounding short of 1
        if label == "tie":
            ties += 1
        elif weak and config.below == "drop":
            dropped += 1
        else:
            swapped += label == "rejected"
            pair = _exchanged(row) if label == "rejected" else row
            kept.append({**pair, "weight": agreement / config.min_agreement if weak else 1.0})
    return Aggregated(kept, krippendorff_alpha(rows), dropped, swapped, ties, len(voted))


def _votes(row: Row) -> Votes:
    """A row's votes; tables made before the column was have none."""
    return row.get("votes") or ()


def _verdicts(votes: Sequence[Votes], method: str) -> list[tuple[str, float]]:
    """(label, its share of the votes or its posterior probability) of each pair.

    Two labels that lead together make a tie: the libraries would take the alphabetically first, "chosen".
    """
    import pandas as pd

    if not votes:
        return []
    table = pd.DataFrame(
        [(number, vote["annotator"], vote["prefers"]) for number, one in enumerate(votes) for vote in one],
        columns=["task", "worker", "label"],
    )
    table["worker"] = pd.factorize(table["worker"])[0]
    # Numbers in the order of first appearance: crowd-kit's MACE numbers annotators and labels in that order and
    # its sums by sorted name, so that with names one annotator's habits would be taken for another's.
    table["label"], names = pd.factorize(table["label"])
    verdicts = []
    for shares in _probabilities(table, method).sort_index().sort_index(axis="columns").to_numpy():
        best = shares.max()
        leading = [name for name, share in zip(names, shares, strict=True) if share > best - _EVEN]
        verdicts.append((leading[0] if len(leading) == 1 else "tie", float(best)))
    return verdicts


def _probabilities(table: "pd.DataFrame", method: str) -> "pd.DataFrame":
    """The probability of each label (column) for each task (row).

    Source: Dawid and Skene (1979), Applied Statistics 28(1); MACE: Hovy et al. (2013), NAACL.
    """
    import numpy as np
    from crowdkit.aggregation import MACE, DawidSkene, MajorityVote

    if method == "majority":
        return MajorityVote().fit_predict_proba(table)
    if method == "dawid_skene":
        return DawidSkene().fit_predict_proba(table)
    # A generator, not a number: from a number every restart would begin at the same point.
    generator = np.random.RandomState(_MACE_SEED)
    return MACE(random_state=generator).fit_predict_proba(table)  # type: ignore[arg-type]


def _exchanged(row: Row) -> dict[str, Any]:
    """The pair the other way round, in new containers where anything changes."""
    other = {"chosen": "rejected", "rejected": "chosen", "tie": "tie"}
    sides = {name: row[twin] for a, b in _SIDES if a in row and b in row for name, twin in ((a, b), (b, a))}
    return {**row, **sides, "votes": [{**vote, "prefers": other[vote["prefers"]]} for vote in _votes(row)]}
