"""The pairs of the preference benchmark: drawn from a file, in a table for us and as plain text for TRL."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError
from components.data.chat import ChatTemplate
from components.training.rows import batch_order


@dataclass(frozen=True)
class Pairs:
    """The pairs of a side's run: a table for ours, and for TRL plain text in the order of its steps."""

    table: str
    texts: list[dict[str, str]]
    steps: int
    max_tokens: int


def make_pairs(
    file: Path, model: Path, table: str, *, steps: int, batch_size: int, max_tokens: int, window: int, seed: int
) -> Pairs:
    """Draw pairs from a file and write them to ``table``.

    A pair must have the same ids when TRL tokenizes prompt and answer as one text and we tokenize them apart: else
    the sides would train on different tokens.

    Raises:
        UserError: the file is missing or malformed, or holds too few such pairs.
    """
    from components.data import store
    from components.data.preference_files import read_preferences
    from components.data.records import PREFERENCE
    from components.training.preference_losses import LossConfig
    from components.training.preference_rows import read

    template, count = ChatTemplate.from_folder(model), steps * batch_size
    texts: dict[str, dict[str, str]] = {}
    chosen: list[dict[str, Any]] = []
    rows = sorted(read_preferences(file, 0.0).rows, key=lambda row: row["pair_id"])
    for row in random.Random(seed).sample(rows, len(rows)):
        if len(chosen) < count and (text := plain_text(template, row, max_tokens)):
            chosen.append({**row, "split": "train"})
            texts[row["pair_id"]] = text
    if len(chosen) < count:
        raise UserError(
            f"{file} has {len(chosen)} pairs of at most {max_tokens} tokens, and {steps} steps of "
            f"{batch_size} need {count}: give fewer steps, more tokens or another file"
        )
    uri, name, _ = store.parse_ref(table)
    table = store.write(uri, name, chosen, schema=PREFERENCE, key="pair_id")
    read_back = read(table, template, LossConfig(), max_tokens=max_tokens, size=0, seed=seed).training
    order = batch_order(read_back.lengths, steps, batch_size, seed, window=window)
    ids = shuffled_within([read_back.rows[number]["pair_id"] for number in order], batch_size, seed)
    return Pairs(table, [texts[pair_id] for pair_id in ids], steps, max_tokens)


def plain_text(template: ChatTemplate, row: Mapping[str, Any], max_tokens: int) -> dict[str, str] | None:
    """Return a pair as rendered text; None if it is too long, or if as one text it has other ids than we give it."""
    pair = template.pair(row["prompt"], row["chosen"], row["rejected"])
    if len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids)) > max_tokens:
        return None
    text = {"prompt": template.render(row["prompt"], generation=True)}
    end = template.tokenizer.convert_ids_to_tokens(template.turn_end_id)
    for side, ids in (("chosen", pair.chosen_ids), ("rejected", pair.rejected_ids)):
        whole = template.render([*row["prompt"], *row[side]])
        text[side] = whole[len(text["prompt"]) : whole.rindex(end) + len(end)]
        if template.tokenizer(text["prompt"] + text[side])["input_ids"] != [*pair.prompt_ids, *ids]:
            return None
    return text if template.tokenizer(text["prompt"])["input_ids"] == list(pair.prompt_ids) else None


def shuffled_within(ids: Sequence[str], batch_size: int, seed: int) -> list[str]:
    """Return the ids with each batch of them in an order that chance gave."""
    drawn = random.Random(seed)
    batches = [list(ids[at : at + batch_size]) for at in range(0, len(ids), batch_size)]
    return [pair_id for batch in batches for pair_id in drawn.sample(batch, len(batch))]
