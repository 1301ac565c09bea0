"""What a table of answers called good or bad holds: counts, balance, lengths, what was left out, examples."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from components.data.curation.texts import Row, said
from components.data.data_card import Figures, length_figures, share, shortened

LABELS = {True: "good", False: "bad"}
_EXAMPLES = 3  # of each label


def describe(rows: Sequence[Row], left_out: Mapping[str, int], table: str) -> Figures:
    """The card of an `answers` table as plain values, which JSON can hold.

    Args:
        rows: the table's rows; at least one.
        left_out: reason → number of lines of the file that are not in the table.
        table: pinned reference of the table.
    """
    by_label = {name: [row for row in rows if row["label"] is label] for label, name in LABELS.items()}
    texts = {"prompt": rows, **by_label}
    lengths = {
        part: [len(said(row["prompt" if part == "prompt" else "completion"])) for row in some]
        for part, some in texts.items()
    }
    prompts = [{row["prompt_id"] for row in some} for some in by_label.values()]
    return {
        "table": table,
        "answers": len(rows),
        "prompts": len(set.union(*prompts)),
        "prompts_with_both": len(set.intersection(*prompts)),
        "counts": _counts(rows),
        "good_share": {
            split: _good_share([row for row in rows if row["split"] == split]) for split in ("train", "test")
        },
        "weights": _weights(Counter(row["label"] for row in rows if row["split"] == "train")),
        "lengths": {part: length_figures(values) for part, values in lengths.items()},
        "length_unit": "characters",
        "good_longer": _larger(lengths["good"], lengths["bad"]),
        "left_out": dict(left_out),
        "examples": [_example(row) for some in by_label.values() for row in _first(some)],
    }


def figures(card: Figures) -> dict[str, float]:
    """The figures of the card that a run's metrics hold."""
    values = {
        "card/good_share": card["good_share"]["train"]["mean"],
        "card/good_longer": card["good_longer"],
        **{f"card/{part}_median_characters": own["median"] for part, own in card["lengths"].items()},
        **{f"dropped/{reason}": count for reason, count in card["left_out"].items()},
    }
    for split in ("train", "test"):
        own = [counts[split] for counts in card["counts"].values()]
        values[f"answers/{split}_good"] = sum(counts["good"] for counts in own)
        values[f"answers/{split}"] = sum(sum(counts.values()) for counts in own)
    return {name: float(value) for name, value in values.items() if value is not None}


def _counts(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, int]]]:
    """Source → split → label → number of answers, the largest source first."""
    counts = Counter((row["source"], row["split"], row["label"]) for row in rows)
    sources = Counter(row["source"] for row in rows)
    return {
        source: {
            split: {name: counts[source, split, label] for label, name in LABELS.items()} for split in ("train", "test")
        }
        for source, _ in sources.most_common()
    }


def _good_share(rows: Sequence[Row]) -> dict[str, float | int | None]:
    import numpy as np

    return share(np.array([float(row["label"]) for row in rows]), np.array([row["prompt_id"] for row in rows]))


def _weights(counts: Mapping[bool, int]) -> dict[str, float] | None:
    """kto's weights with which both kinds count alike, the rarer one's being above 1; none where one kind is missing.

    Source: Ethayarajh et al. (2024), KTO, arXiv:2402.01306, section 4: unequal counts are evened out by the weights.
    """
    good, bad = counts[True], counts[False]
    if not good or not bad:
        return None
    return {"desirable": max(1.0, bad / good), "undesirable": max(1.0, good / bad)}


def _larger(first: Sequence[int], second: Sequence[int]) -> float | None:
    """The chance that a value of `first` is above one of `second`, both drawn anew; equal ones count half.

    Source: Mann and Whitney (1947), Annals of Mathematical Statistics 18(1): U over the number of pairs.
    """
    import numpy as np

    if not first or not second:
        return None
    ordered = np.sort(second)
    below = np.searchsorted(ordered, first, "left") + np.searchsorted(ordered, first, "right")
    return float(below.mean() / 2 / len(ordered))


def _first(rows: Sequence[Row]) -> list[Row]:
    """The rows with the least ids, which are hashes: as good as drawn."""
    return sorted(rows, key=lambda row: row["answer_id"])[:_EXAMPLES]


def _example(row: Row) -> dict[str, Any]:
    texts = {part: shortened(said(row[part])) for part in ("prompt", "completion")}
    facts = {name: row[name] for name in ("answer_id", "source", "split")}
    return {**texts, **facts, "label": LABELS[row["label"]]}
