"""What a reward model is trained and measured on: pairs with their votes aggregated, or labelled steps."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from components.config import UserError
from components.data import store
from components.data.chat import ChatTemplate
from components.data.votes import VotesConfig, aggregate
from components.models.rewards import Kind
from components.tracking.run import Run
from components.training.reference import PAIR_COLUMNS
from components.training.reward import RewardLossConfig, pair_rows, step_rows
from components.training.rows import Tokenized, tokenize


@dataclass(frozen=True)
class RewardData:
    """Rows to train on, held-out rows to measure, and what was done to them."""

    kind: Kind
    table: str  # that is trained on, with its version
    training: Tokenized
    held_out: list[dict[str, Any]]  # pairs, their votes aggregated
    held_out_steps: Tokenized | None
    figures: dict[str, float]


@dataclass(frozen=True)
class HowToRead:
    """The parts of the configuration that decide which rows there are."""

    votes: VotesConfig
    loss: RewardLossConfig
    max_tokens: int
    held_out: int  # rows to measure on
    seed: int


def read(preferences: str | None, steps: str | None, template: ChatTemplate, run: Run, how: HowToRead) -> RewardData:
    """Return the rows of the tables; with ``steps`` these are trained on, and pairs are only measured.

    Raises:
        UserError: neither is given, a table is missing, or a split that is needed is empty.
    """
    if preferences is None and steps is None:
        raise UserError("there is nothing to learn from: give preferences, or steps for a reward of each step")
    pairs = _pairs(preferences, run, how) if preferences else _Pairs("", [], [], {})
    figures, kind = pairs.figures, cast(Kind, "process" if steps else "outcome")
    if steps is None:
        table = pairs.table
        convert = pair_rows(template, how.loss, how.seed)
        training = tokenize(pairs.training, convert, max_tokens=how.max_tokens, what=f"split 'train' of {table}")
        step_sample = None
    else:
        table = store.pin(steps)
        store.check_columns(table, ("prompt", "steps"))
        labelled = [row for row in store.read(table, where="split = 'train'") if has_label(row)]
        training, unread = _solutions(labelled, template, how, f"split 'train' of {table}")
        figures |= unread
        test = [row for row in store.read(table, where="split = 'test'") if has_label(row)]
        if not test:
            raise UserError(f"{table} has no rows in split 'test': the reward's mean and deviation are taken there")
        drawn = random.Random(how.seed).sample(test, min(4 * how.held_out, len(test)))
        step_sample, _ = _solutions(drawn, template, how, f"split 'test' of {table}")
    run.log_dataset("steps" if steps else "preferences", table, "train")
    figures |= {"rows/train": len(training.rows), "rows/dropped": training.dropped}
    return RewardData(kind, table, training, pairs.held_out, step_sample, figures)


def _solutions(
    rows: list[dict[str, Any]], template: ChatTemplate, how: HowToRead, what: str
) -> tuple[Tokenized, dict[str, float]]:
    """Return solutions with a labelled step that can be read, and how many such steps and solutions cannot be.

    Raises:
        UserError: none can be read, or as ``tokenize``.
    """
    found = tokenize(rows, step_rows(template, how.loss.heads, how.seed), max_tokens=how.max_tokens, what=what)
    unread = sum(row.pop("unread") for row in found.rows)
    kept = [number for number, row in enumerate(found.rows) if row["ends"]]
    if not kept:
        raise UserError(f"no labelled step of {what} can be read: they are blank, or a token holds the ends of several")
    solutions = Tokenized([found.rows[n] for n in kept], [found.lengths[n] for n in kept], found.dropped)
    return solutions, {"rows/unread_steps": unread, "rows/unread": len(found.rows) - len(kept)}


@dataclass(frozen=True)
class _Pairs:
    """Pairs with their votes aggregated, and how that went."""

    table: str
    training: list[dict[str, Any]]
    held_out: list[dict[str, Any]]  # a sample, drawn by ``seed``
    figures: dict[str, float]


def _pairs(preferences: str, run: Run, how: HowToRead) -> _Pairs:
    """Return the pairs of both splits; how reliable an annotator is shows in all of their votes together."""
    table = store.pin(preferences)
    store.check_columns(table, PAIR_COLUMNS)
    run.log_dataset("preferences", table, "evaluation")
    found = aggregate(store.read(table, where="split IN ('train', 'test')"), how.votes)
    rows = [row for row in found.rows if row["split"] == "test"]
    if not rows:
        raise UserError(
            f"{table} has no rows in split 'test': a reward model is measured, and its rewards normalised, on them"
        )
    drawn = random.Random(how.seed).sample(rows, min(how.held_out, len(rows)))
    figures: dict[str, float] = {"rows/held_out": len(drawn)}
    figures |= {"votes/swapped": found.swapped, "votes/dropped": found.dropped, "votes/ties": found.ties}
    if found.alpha is not None:
        figures["votes/alpha"] = found.alpha
    return _Pairs(table, [row for row in found.rows if row["split"] == "train"], drawn, figures)


def has_label(row: Mapping[str, Any]) -> bool:
    """Return whether a solution has a step that somebody judged: there is nothing to learn or measure in others."""
    return any(step["label"] is not None for step in row["steps"])
