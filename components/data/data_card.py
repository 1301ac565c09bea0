"""What a preference table holds, in figures: counts, lengths, length bias, agreement, what was left out, examples."""

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from components.data.curation.texts import Row, said
from components.data.records import content_hash
from components.data.votes import krippendorff_alpha

if TYPE_CHECKING:
    import numpy as np

Figures = dict[str, Any]

PARTS = ("prompt", "chosen", "rejected")
_BINS = 30
_EXAMPLES = 6  # of the kept pairs
_DROPPED_EXAMPLES = 2  # of each reason
_LONGEST_EXAMPLE = 600  # characters of each text
_MOST_LINES = 20  # of the file that are named for having made no row
_NORMAL_95 = 1.959964


class _Counted:
    """What the card says of pairs, added up one by one: a few numbers of each, and its votes."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.lengths = {part: array("I") for part in PARTS}
        self.prompts, self.splits, self.sources = array("Q"), array("I"), array("I")
        self.names: dict[str, int] = {}  # of splits and of sources → their numbers in the arrays
        self.equal_scores = 0
        self.voted: list[Row] = []
        self.examples: list[Row] = []
        for row in rows:
            self._add(row)

    def _add(self, row: Row) -> None:
        for part, lengths in self.lengths.items():
            lengths.append(len(said(row[part])))
        self.prompts.append(int(content_hash(row["prompt_id"])[:16], 16))
        for name, numbers in (("split", self.splits), ("source", self.sources)):
            numbers.append(self.names.setdefault(row[name], len(self.names)))
        self.equal_scores += row["chosen_score"] == row["rejected_score"]
        if row.get("votes"):
            self.voted.append({"votes": row["votes"]})
        self.examples = _first([*self.examples, row], _EXAMPLES)


def describe(
    rows: Iterable[Row],
    dropped: Iterable[Row],
    left_out: Sequence[Mapping[str, str]],
    table: str,
    found: Mapping[str, int],
) -> Figures:
    """The data card as plain values, which JSON can hold.

    Args:
        rows: the pairs of the table; gone through once, and a few numbers of each are kept.
        dropped: the pairs that filters took out, with `reason` and `detail`.
        left_out: the lines that made no pair: `where` they stand and the `reason`.
        table: pinned reference of the table.
        found: counts of what was found but not always dropped.
    """
    import numpy as np

    kept = _Counted(rows)
    reasons: Counter[str] = Counter()
    voted = list(kept.voted)
    examples: dict[str, list[Row]] = {}
    for row in dropped:
        reasons[row["reason"]] += 1
        examples[row["reason"]] = _first([*examples.get(row["reason"], ()), row], _DROPPED_EXAMPLES)
        voted += [{"votes": row["votes"]}] if row.get("votes") else []
    return {
        "table": table,
        "pairs": len(kept.prompts),
        "prompts": len(np.unique(np.array(kept.prompts))),
        "counts": _counts(kept),
        "lengths": {part: length_figures(lengths) for part, lengths in kept.lengths.items()},
        "length_unit": "characters",
        "length_bias": _length_bias(kept),
        "agreement": {"kept": _agreement(kept.voted), "as read": _agreement(voted)},
        "equal_scores": kept.equal_scores,
        "found": dict(found),
        "dropped": dict(reasons.most_common()),
        "no_pair": dict(Counter(item["reason"] for item in left_out).most_common()),
        "no_pair_lines": [dict(item) for item in left_out[:_MOST_LINES]],
        "examples": [_example(row) for row in kept.examples],
        "dropped_examples": [
            {**_example(row), "reason": reason, "detail": row["detail"]}
            for reason, some in sorted(examples.items())
            for row in some
        ],
    }


def figures(card: Figures) -> dict[str, float]:
    """The figures of the card that a run's metrics hold."""
    values: dict[str, float | None] = {
        "card/chosen_longer": card["length_bias"]["overall"]["mean"],
        "card/alpha": card["agreement"]["kept"]["alpha"],
        "card/voted": card["agreement"]["kept"]["pairs"],
    }
    for part in PARTS:
        values[f"card/{part}_median_characters"] = card["lengths"][part]["median"]
    return {name: float(value) for name, value in values.items() if value is not None}


def _counts(kept: _Counted) -> dict[str, dict[str, int]]:
    """Source → split → number of pairs, the largest source first."""
    counts = Counter(zip(kept.sources, kept.splits, strict=True))
    sizes = Counter(kept.sources)
    sources = sorted(name for name, number in kept.names.items() if number in sizes)
    return {
        source: {split: counts[kept.names[source], kept.names.get(split, -1)] for split in ("train", "test")}
        for source in sorted(sources, key=lambda name: -sizes[kept.names[name]])
    }


def length_figures(values: Sequence[int]) -> Figures:
    """Quantiles of lengths, and how many lie in each bin; bins are equally wide on a logarithmic axis."""
    import numpy as np

    if not values:
        return {"n": 0, "mean": None, "p5": None, "median": None, "p95": None, "max": None, "edges": [], "counts": []}
    p5, median, p95 = np.quantile(values, (0.05, 0.5, 0.95)).tolist()
    edges = np.geomspace(1, max(values) + 1, _BINS + 1)
    counts, _ = np.histogram(np.maximum(values, 1), edges)
    spread = {"mean": float(np.mean(values)), "p5": p5, "median": median, "p95": p95, "max": max(values)}
    return {"n": len(values), **spread, "edges": edges.tolist(), "counts": counts.tolist()}


def _length_bias(kept: _Counted) -> Figures:
    """In which share of pairs the chosen answer is the longer one (equal lengths count half), and by how much."""
    import numpy as np

    chosen, rejected = (np.array(kept.lengths[part], dtype=float) for part in PARTS[1:])
    longer = (np.sign(chosen - rejected) + 1) / 2
    prompts = np.array(kept.prompts, dtype=np.uint64)
    factors = np.log2(np.maximum(chosen, 1) / np.maximum(rejected, 1))
    edges = np.linspace(-4, 4, 33)
    return {
        "overall": share(longer, prompts),
        "by_split": _shares(longer, prompts, kept.splits, kept.names),
        "by_source": _shares(longer, prompts, kept.sources, kept.names),
        "log2_ratio": {"edges": edges.tolist(), "counts": np.histogram(np.clip(factors, -4, 4), edges)[0].tolist()},
    }


def _shares(values: "np.ndarray", clusters: "np.ndarray", kinds: array, names: Mapping[str, int]) -> Figures:
    """The share within each kind.

    Args:
        kinds: the number of each value's kind.
        names: a kind's name → its number.
    """
    import numpy as np

    own = np.array(kinds)
    there = set(kinds)
    return {
        name: share(values[own == number], clusters[own == number])
        for name, number in sorted(names.items())
        if number in there
    }


def share(values: "np.ndarray", clusters: "np.ndarray") -> dict[str, float | int | None]:
    """Mean with its 95 % interval by the normal approximation; values of one cluster are not taken for independent.

    A bootstrap over prompts says the same and takes gigabytes for 100,000 of them.

    Source: Liang and Zeger (1986), Biometrika 73(1): the variance of a mean whose clusters are independent.
    """
    import numpy as np

    if not len(values):
        return {"mean": None, "low": None, "high": None, "n": 0}
    mean = float(values.mean())
    _, member = np.unique(clusters, return_inverse=True)
    error = float(np.sqrt((np.bincount(member, values - mean) ** 2).sum())) / len(values)
    low, high = max(0.0, mean - _NORMAL_95 * error), min(1.0, mean + _NORMAL_95 * error)
    return {"mean": mean, "low": low, "high": high, "n": len(values)}


def _agreement(voted: Sequence[Row]) -> Figures:
    """How far annotators agree: Krippendorff's alpha, and how their majorities stand to the labels."""
    leads = [sum({"chosen": 1, "rejected": -1, "tie": 0}[vote["prefers"]] for vote in row["votes"]) for row in voted]
    return {
        "alpha": krippendorff_alpha(voted) if voted else None,
        "pairs": len(voted),
        "votes": sum(len(row["votes"]) for row in voted),
        "annotators": len({vote["annotator"] for row in voted for vote in row["votes"]}),
        "even": sum(lead == 0 for lead in leads),
        "against_the_label": sum(lead < 0 for lead in leads),
    }


def _first(rows: Sequence[Row], count: int) -> list[Row]:
    """The rows with the least ids, which are hashes: as good as drawn, and the same in whatever order they came."""
    return sorted(rows, key=lambda row: row["pair_id"])[:count]


def _example(row: Row) -> dict[str, Any]:
    texts = {part: shortened(said(row[part])) for part in PARTS}
    return {**texts, "pair_id": row["pair_id"], "source": row["source"], "split": row["split"]}


def shortened(text: str) -> str:
    """A text without its middle where it is long: a prompt's last words say what is asked."""
    if len(text) <= _LONGEST_EXAMPLE:
        return text
    half = _LONGEST_EXAMPLE // 2
    return f"{text[:half]} … {text[-half:]}"
