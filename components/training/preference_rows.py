"""Rows and batches of preference training: pairs or labelled answers, with what the reference model says of them.

Shapes: B sequences (of P prompts), T tokens.
"""

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.config import UserError
from components.data import store
from components.data.chat import IGNORED, ChatTemplate
from components.models.packing import collate
from components.training.preference_losses import LossConfig
from components.training.reference import PAIR_COLUMNS, pair_ids
from components.training.rows import Tokenized, read_sample, read_split

Row = Mapping[str, Any]
Logprobs = Mapping[str, tuple[float, float]]
LABELLED_COLUMNS = ("answer_id", "prompt", "completion", "label")
Lookup = Callable[[Sequence[Row]], tuple[Logprobs, int]]


@dataclass(frozen=True)
class Preferences:
    """A table's rows as ids: pairs (pair_id, prompt_ids, chosen_ids, rejected_ids), or answers with a ``label``.

    A labelled answer stands in ``chosen_ids``, whatever its label; in place of another answer to its prompt it has
    its own last token in ``rejected_ids``, so that the reference scores it in the way it scores a pair.
    """

    training: Tokenized
    evaluation: Tokenized | None
    paired: bool


def read(
    table: str,
    template: ChatTemplate,
    loss: LossConfig,
    *,
    max_tokens: int,
    size: int,
    seed: int,
    where: str | None = None,
) -> Preferences:
    """Return the training split of a table and at most ``size`` rows of its test split.

    Args:
        where: SQL condition on the rows to train on.

    Raises:
        UserError: the table is missing or empty, no row meets the condition or it is none, or the rows are labelled
            answers, which only kto learns from.
    """
    paired = is_paired(table, loss)
    convert = pair_ids(template) if paired else labelled_ids(template)
    limits: dict[str, Any] = {"columns": PAIR_COLUMNS if paired else LABELLED_COLUMNS, "max_tokens": max_tokens}
    training = read_split(table, "train", convert, where=where, **limits)
    return Preferences(training, read_sample(table, "test", convert, size=size, seed=seed, **limits), paired)


def is_paired(table: str, loss: LossConfig) -> bool:
    """Return whether a table holds pairs, not labelled answers.

    Raises:
        UserError: the table is missing, or holds labelled answers, which only kto learns from.
    """
    paired = "label" not in store.open_table(table).schema.names
    if not paired and loss.name != "kto":
        raise UserError(f"{table} holds labelled answers, not pairs, which '{loss.name}' needs: set loss.name=kto")
    return paired


def labelled_ids(template: ChatTemplate) -> Callable[[Row], tuple[dict[str, Any], int]]:
    """Return the function that makes a labelled answer its ids, see ``Preferences``, and counts its tokens."""

    def convert(row: Row) -> tuple[dict[str, Any], int]:
        prompt_ids = template.prompt_ids(row["prompt"])
        answer = template.completion_ids(row["prompt"], row["completion"])
        ids = {
            "pair_id": row["answer_id"],
            "prompt_ids": prompt_ids,
            "chosen_ids": answer,
            "rejected_ids": answer[-1:],
            "label": bool(row["label"]),
        }
        return ids, len(prompt_ids) + len(answer)

    return convert


def prepare(
    data: Preferences, loss: LossConfig, lookup: Lookup | None, *, max_tokens: int, seed: int
) -> tuple[Tokenized, Tokenized | None, int]:
    """Return training and evaluation rows as the loss's trainer reads them, and how many pairs had to be scored.

    Args:
        lookup: the reference's log-probabilities of pairs, by pair_id, and how many had to be computed; it is asked
            once, and not at all for a loss without reference; none: they are computed in the step.

    Raises:
        UserError: KTO's baseline needs answers of other prompts, and there are none that fit.
    """
    tables = [data.training] + ([data.evaluation] if data.evaluation else [])
    others: list[list[dict[str, Any]]] = [[] for _ in tables]
    if loss.baseline == "mismatched":
        others = [mismatch(table.rows, max_tokens, seed, data.paired) for table in tables]
    asked = [row for table in tables for row in table.rows] + [row for own in others for row in own]
    logprobs, computed = lookup(asked) if loss.has_reference and lookup else ({}, 0)
    made = []
    for table, own in zip(tables, others, strict=True):
        if not loss.has_reference or lookup is None:
            made.append(Tokenized([_ids(row) for row in table.rows], table.lengths, table.dropped))
        elif loss.name != "kto":
            made.append(with_reference(table, logprobs))
        else:
            kl = own or (table.rows if loss.baseline == "batch" else itertools.repeat(None, len(table.rows)))
            rows = [_labelled(row, other, logprobs, data.paired) for row, other in zip(table.rows, kl, strict=True)]
            made.append(Tokenized(rows, table.lengths, table.dropped))
    return made[0], made[1] if data.evaluation else None, computed


def with_reference(pairs: Tokenized, logprobs: Logprobs) -> Tokenized:
    """Return the pairs as TRL's DPOTrainer reads them: with what the reference model says of them."""
    rows = []
    for pair in pairs.rows:
        chosen, rejected = logprobs[pair["pair_id"]]
        rows.append({**_ids(pair), "ref_chosen_logps": chosen, "ref_rejected_logps": rejected})
    return Tokenized(rows, pairs.lengths, pairs.dropped)


def mismatch(rows: Sequence[Row], max_tokens: int, seed: int, paired: bool) -> list[dict[str, Any]]:
    """Return each prompt with the answers of another prompt, drawn by ``seed``: what KTO's KL is estimated from.

    They are drawn once, from the whole table, so that the reference's log-probabilities of them can be kept.

    Raises:
        UserError: a prompt has no answers of another one that fit ``max_tokens``.
    """
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    made: list[dict[str, Any]] = [{}] * len(rows)
    for place, number in enumerate(order):
        prompt = rows[number]["prompt_ids"]
        later = (rows[order[(place + step) % len(rows)]] for step in range(1, len(rows)))
        other = next((row for row in later if row["prompt_ids"] != prompt and _fits(prompt, row, max_tokens)), None)
        if other is None:
            raise UserError(
                "loss.baseline=mismatched gives each prompt the answers of another, and for one of "
                f"{len(rows)} rows none is there that fits max_tokens={max_tokens}: give more rows (with eval_rows, "
                "too), raise max_tokens, or set loss.baseline to batch or zero"
            )
        made[number] = {
            "pair_id": f"{rows[number]['pair_id']} with {other['pair_id']}",
            "prompt_ids": prompt,
            "chosen_ids": other["chosen_ids"],
            "rejected_ids": other["rejected_ids"] if paired else other["chosen_ids"][-1:],
        }
    return made


def collate_pairs(rows: Sequence[Row], pad_id: int) -> dict[str, Any]:
    """Return input_ids, attention and labels [2P, T], chosen rows first; padded on the right."""
    sides = [(row["prompt_ids"], row[side]) for side in ("chosen_ids", "rejected_ids") for row in rows]
    batch = collate(sides, pad_id)
    batch["labels_BT"] = batch["input_ids_BT"].masked_fill(~batch.pop("completion_BT"), IGNORED)
    return batch


def collate_labelled(rows: Sequence[Row], pad_id: int) -> dict[str, Any]:
    """Return the batch that TRL's KTOTrainer reads: the first answers of all prompts, then the second ones, if any."""
    import torch

    batch = _padded("", _sides(rows, "answers"), pad_id)
    for name, key in (("label", "labels"), ("ref_logps", "ref_logps")):
        batch[name] = torch.tensor([value for values in _by_place(rows, key) for _, value in values])
    if rows[0].get("kl_answers"):
        batch |= _padded("KL_", _sides(rows, "kl_answers"), pad_id)
        batch["ref_KL_logps"] = torch.tensor([v for values in _by_place(rows, "ref_kl_logps") for _, v in values])
    return batch


def _labelled(row: Row, other: Row | None, logprobs: Logprobs, paired: bool) -> dict[str, Any]:
    """Return one prompt with its one or two answers, and those that its KL is estimated from."""
    count = 2 if paired else 1

    def answers(of: Row) -> list[list[int]]:
        return [of["chosen_ids"], of["rejected_ids"]][:count]

    made = {
        "prompt_ids": row["prompt_ids"],
        "answers": answers(row),
        "labels": [True, False] if paired else [row["label"]],
        "ref_logps": list(logprobs[row["pair_id"]][:count]),
    }
    if other is not None:
        made |= {"kl_answers": answers(other), "ref_kl_logps": list(logprobs[other["pair_id"]][:count])}
    return made


def _ids(row: Row) -> dict[str, Any]:
    return {name: row[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")}


def _fits(prompt: Sequence[int], row: Row, max_tokens: int) -> bool:
    return len(prompt) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) <= max_tokens


def _by_place(rows: Sequence[Row], key: str) -> list[list[tuple[Row, Any]]]:
    """Return (row, value) of every row's first value, then of every row's second."""
    return [[(row, row[key][place]) for row in rows] for place in range(len(rows[0][key]))]


def _sides(rows: Sequence[Row], key: str) -> list[tuple[Sequence[int], Sequence[int]]]:
    return [(row["prompt_ids"], answer) for answers in _by_place(rows, key) for row, answer in answers]


def _padded(prefix: str, sides: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> dict[str, Any]:
    """Return the ids, attention and completion mask of (prompt, answer) ids under the names that TRL has for them."""
    batch = collate(sides, pad_id)
    return {
        f"{prefix}input_ids": batch["input_ids_BT"],
        f"{prefix}attention_mask": batch["attention_BT"],
        f"{prefix}completion_mask": batch["completion_BT"].long(),
    }
