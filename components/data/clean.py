"""Takes out of a preference table what a model should not be trained on, and tells what went and why."""

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError
from components.data.curation import contamination, row_filters
from components.data.curation.near import near_duplicates
from components.data.curation.row_filters import Verdicts
from components.data.curation.settings import CleanConfig
from components.data.curation.texts import said
from components.data.curation.vectors import Embedding, Vectors, embed_texts

__all__ = ["CleanConfig", "Cleaned", "Embedding", "clean", "clean_exactly", "figures", "refuse_nothing", "sort_out"]


@dataclass(frozen=True)
class Cleaned:
    """The pairs that are left, in the order of their ids, and those that are not, with the reason and a detail."""

    rows: list[dict[str, Any]]
    dropped: list[dict[str, Any]]
    conflicts: int  # pairs that contradict another one, dropped or not
    phrases: int  # evaluated answers that were set aside: too many prompts share them

    def figures(self) -> dict[str, float]:
        """Counts of what was dropped, by reason, and of what was found."""
        return figures(Counter(row["reason"] for row in self.dropped), self.found())

    def found(self) -> dict[str, int]:
        """Counts of what was found but is not always dropped."""
        return {"conflicts": self.conflicts, "common_answers": self.phrases}


def figures(reasons: Mapping[str, int], found: Mapping[str, int]) -> dict[str, float]:
    """The counts as a run's metrics name them."""
    counts = {f"dropped/{reason}": float(number) for reason, number in sorted(reasons.items())}
    return counts | {f"found/{name}": float(number) for name, number in found.items()}


def clean(
    rows: Sequence[dict[str, Any]],
    config: CleanConfig,
    *,
    uri: str,
    embedding: Embedding | None = None,
    copies: Mapping[str, int] | None = None,
    salt: str = "",
) -> Cleaned:
    """Apply the filters: lengths, ties, conflicts, repeats, near-duplicates, contamination, the mix.

    The same pairs in another order give the same result. Pairs are held in memory, vectors are computed and searched
    in batches; the time grows with the number of pairs n as n ** 1.5 at most.

    Args:
        uri: LanceDB folder that keeps the vectors of texts for the next run.
        embedding: needed where ``config.uses_vectors``.
        copies: pair_id → how often the source had it, for conflicts without votes.
        salt: another one draws another subsample.

    Raises:
        UserError: nothing is left to train on, or a section names a source or a table that is not there.
    """
    exactly = clean_exactly(rows, config, copies)
    left = _Left(exactly.rows, exactly.dropped)
    with tempfile.TemporaryDirectory(prefix="raylign-clean-") as scratch:
        if config.uses_vectors and embedding is None:
            raise ValueError("the filters compare vectors: hand over an embedding")
        phrases = _with_vectors(left, config, uri, embedding, Path(scratch))
    left.drop(row_filters.mix(left.rows, config.mix, salt))
    refuse_nothing(Counter(row["split"] for row in left.rows), Counter(row["reason"] for row in left.dropped))
    return Cleaned(left.rows, left.dropped, exactly.conflicts, phrases)


def clean_exactly(
    rows: Sequence[dict[str, Any]], config: CleanConfig, copies: Mapping[str, int] | None = None
) -> Cleaned:
    """Apply the filters that look at one pair, or at pairs with the same prompt: lengths, ties, conflicts, repeats."""
    left = _Left(sorted(rows, key=lambda row: row["pair_id"]), [])
    left.drop(row_filters.lengths(left.rows, config.lengths))
    left.drop(row_filters.ties(left.rows, config.ties))
    verdicts, conflicts = row_filters.conflicts(left.rows, config.conflicts, copies or {})
    left.drop(verdicts)
    if config.duplicates.exact:
        left.drop(row_filters.repeats(left.rows))
    return Cleaned(left.rows, left.dropped, conflicts, 0)


def sort_out(rows: Sequence[dict[str, Any]], verdicts: Verdicts) -> Cleaned:
    """Take the pairs of the verdicts out."""
    left = _Left(list(rows), [])
    left.drop(verdicts)
    return Cleaned(left.rows, left.dropped, 0, 0)


def refuse_nothing(splits: Mapping[str, int], reasons: Counter[str]) -> None:
    """Raise a UserError where no pair is left to train on.

    Args:
        splits: how many pairs are left of each split.
        reasons: how many were dropped for each reason.
    """
    if not splits.get("train"):
        told = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common())
        raise UserError(f"no pair is left to train on; dropped were {told or 'none'}: loosen the filters of clean")


def _with_vectors(left: "_Left", config: CleanConfig, uri: str, embedding: Embedding | None, scratch: Path) -> int:
    """Drop near-duplicates, then contaminated pairs; the number of evaluated answers that were set aside."""
    if config.duplicates.near and embedding is not None:
        texts = [said(row[name]) for row in left.rows for name in ("prompt", "chosen", "rejected")]
        left.drop(near_duplicates(left.rows, embed_texts(uri, texts, embedding), config.duplicates, scratch))
    evaluated = contamination.evaluated_texts(left.rows, config.decontaminate)
    matches = list(contamination.ByWords(evaluated, config.decontaminate).matches(left.rows))
    if config.decontaminate.near and embedding is not None and evaluated:
        vectors = _compared_vectors(left, config, uri, embedding, evaluated)
        matches += contamination.matches_by_vectors(left.rows, evaluated, vectors, config.decontaminate, scratch)
    verdicts, phrases = contamination.verdicts_of(matches)
    left.drop(verdicts)
    return phrases


def _compared_vectors(
    left: "_Left", config: CleanConfig, uri: str, embedding: Embedding, evaluated: Sequence[contamination.Evaluated]
) -> Vectors:
    training = (row for row in left.rows if row["split"] == "train")
    texts = [text for row in training for text, _ in contamination.trained_texts(row, config.decontaminate)]
    return embed_texts(uri, [*texts, *contamination.embedded(evaluated, config.decontaminate)], embedding)


class _Left:
    """The pairs that are left so far, and those that were dropped."""

    def __init__(self, rows: list[dict[str, Any]], dropped: list[dict[str, Any]]) -> None:
        self.rows, self.dropped = rows, dropped

    def drop(self, verdicts: Verdicts) -> None:
        """Move the pairs of the verdicts from one list to the other."""
        for row in self.rows:
            if row["pair_id"] in verdicts:
                reason, detail = verdicts[row["pair_id"]]
                self.dropped.append({**row, "reason": reason, "detail": detail})
        self.rows = [row for row in self.rows if row["pair_id"] not in verdicts]
