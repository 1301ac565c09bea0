"""The tables of a training's configuration: what their rows are, and those rows."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.config import UserError, WorkflowConfig
from components.data import store
from components.training import reference, sft
from components.training.preference_losses import LossConfig
from components.training.preference_rows import LABELLED_COLUMNS, is_paired
from components.training.reward_rows import has_label
from components.training.rows import split_condition

Row = Mapping[str, Any]
_ANSWERS = ("chosen", "rejected", "completion")


@dataclass(frozen=True)
class Kind:
    """What the rows of a table are to a training."""

    columns: tuple[str, ...]  # that the training reads
    others: tuple[str, ...] = ()  # that tell more where they are there
    sides: int = 1  # sequences that a row is in a forward pass


PAIRS = Kind(reference.PAIR_COLUMNS, ("chosen_score", "rejected_score", "votes"), sides=2)
LABELLED = Kind(LABELLED_COLUMNS)
DEMONSTRATIONS = Kind(sft.COLUMNS)
STEPS = Kind(("prompt", "steps"))
PROMPTS = Kind(("prompt_id", "prompt"))
_KINDS = {"demonstrations": DEMONSTRATIONS, "steps": STEPS, "prompts": PROMPTS}


@dataclass(frozen=True)
class Table:
    """One of a training's tables."""

    key: str
    kind: Kind
    learned: bool  # trained on, not only measured on
    train: list[dict[str, Any]]
    test: list[dict[str, Any]]
    broken: int  # rows without text where a message has it

    @property
    def main(self) -> list[dict[str, Any]]:
        """The rows that the training is mostly about."""
        return self.train if self.learned else self.test


def tables_of(config: WorkflowConfig) -> Iterator[Table]:
    """Yield the tables of a training, read.

    Raises:
        UserError: there is none, one is missing, or is of a kind that the training cannot read.
    """
    keys = [key for key in ("demonstrations", "preferences", "steps", "prompts") if getattr(config, key, None)]
    if not keys:
        raise UserError("there is nothing to learn from: the configuration names no table")
    for key in keys:
        yield _read(config, key, getattr(config, key))


def answers_of(row: Row) -> Sequence[Sequence[Mapping[str, str]]]:
    """Return a row's answers, each as messages; a solution's steps are one."""
    if "steps" in row:
        return [[{"role": "assistant", "content": "\n".join(step["text"] for step in row["steps"])}]]
    return [row[name] for name in _ANSWERS if name in row]


def _read(config: WorkflowConfig, key: str, ref: str) -> Table:
    loss = getattr(config, "loss", None)
    labelled = key == "preferences" and isinstance(loss, LossConfig) and not is_paired(ref, loss)
    kind = _KINDS.get(key, LABELLED if labelled else PAIRS)
    there = store.check_columns(ref, kind.columns).schema.names
    more = [name for name in ("prompt_id", *kind.others) if name in there and name not in kind.columns]
    learned = not (key == "preferences" and getattr(config, "steps", None))
    conditions = (split_condition("train", getattr(config, "where", None)), split_condition("test"))
    splits: dict[str, list[dict[str, Any]]] = {}
    broken = 0
    for split, condition in zip(("train", "test"), conditions, strict=True):
        rows = store.read(ref, columns=[*kind.columns, *more], where=condition)
        whole = [{"prompt_id": "?", **row, "split": split} for row in rows if _is_whole(row)]
        broken += len(rows) - len(whole)
        splits[split] = list({row["prompt_id"]: row for row in whole}.values()) if kind is PROMPTS else whole
    if kind is STEPS:  # what has no label is not measured
        splits["test"] = [row for row in splits["test"] if has_label(row)]
    return Table(key, kind, learned, splits["train"], splits["test"], broken)


def _is_whole(row: Row) -> bool:
    """Whether everything that somebody says in a row is a text."""
    parts = [row["prompt"], *(row[name] for name in _ANSWERS if name in row)]
    texts = [message["content"] for part in parts for message in part or [{"content": None}]]
    texts += [step["text"] for step in row["steps"] or [{"text": None}]] if "steps" in row else []
    return all(isinstance(text, str) for text in texts)
