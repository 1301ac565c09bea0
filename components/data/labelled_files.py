"""A person's own answers, each labelled good or bad: rows {prompt, completion, label} of a jsonl or parquet file."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.config import UserError
from components.data import label_card, records, store
from components.data.preference_files import parse_pair
from components.data.records import content_hash
from components.data.row_files import file_rows
from components.data.split import side_of, stricter

_LABELS = {True: True, False: False, "true": True, "false": False, "good": True, "bad": False}


def write_labelled(uri: str, path: Path, test_share: float, salt: str) -> tuple[dict[str, str], dict[str, Any]]:
    """Write the `answers` table, which kto learns from, and a demonstration of each good one; (tables, data card).

    Raises:
        UserError: as ``read_labelled``.
    """
    rows, left_out = read_labelled(path, test_share, salt)
    names = ("prompt_id", "prompt", "completion", "kind", "split", "source")
    good: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["label"]:
            good.setdefault(row["prompt_id"], {name: row[name] for name in names})
    tables = {
        "answers": store.overwrite(uri, "answers", rows, records.LABELLED),
        "demonstrations": store.overwrite(uri, "demonstrations", list(good.values()), records.DEMONSTRATION),
    }
    return tables, label_card.describe(rows, left_out, tables["answers"])


def read_labelled(path: Path, test_share: float, salt: str = "") -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The rows of the `answers` table and, for each reason, how many lines of the file are not among them.

    Rows are split as the file says, or by a hash of the prompt. An answer that is called good on one line and bad on
    another teaches nothing: it is left out, as are empty ones, and those to train on whose prompt is a test's but for
    case and white space.

    Raises:
        UserError: the file is missing, of another kind, empty, or has a malformed row (its line is named).
    """
    rows: dict[str, dict[str, Any]] = {}
    conflicting: set[str] = set()
    left_out = Counter({"repeated": 0, "empty": 0, "conflicting": 0, "contaminated_prompt": 0})
    for where, record in file_rows(path):
        prompt, completion, label = parse_answer(record, where)
        if not completion.strip():
            left_out["empty"] += 1
            continue
        row = _row(record, prompt, completion, label, source=path.name)
        row["split"] = side_of(record, _text(prompt), test_share, salt, where)
        known = rows.setdefault(row["answer_id"], row)
        if known is not row:
            left_out["repeated"] += 1
            known["split"] = stricter(known, row)
            if known["label"] != label:
                conflicting.add(row["answer_id"])
    agreed = [row for key, row in rows.items() if key not in conflicting]
    tested = {_plain(row["prompt"]) for row in rows.values() if row["split"] == "test"}
    kept = [row for row in agreed if row["split"] == "test" or _plain(row["prompt"]) not in tested]
    left_out["conflicting"], left_out["contaminated_prompt"] = len(conflicting), len(agreed) - len(kept)
    if not kept:
        empty = left_out["empty"]
        held = f"{empty + len(conflicting)} answers that are empty or both good and bad" if rows or empty else "no rows"
        raise UserError(f"{path} holds {held}: it needs rows with a prompt, a completion and a label (true or false)")
    return kept, dict(left_out)


def parse_answer(record: Mapping[str, Any], where: str) -> tuple[list[dict[str, str]], str, bool]:
    """(prompt messages, completion text, label) of one row; prompts and completions as in a file of pairs.

    Raises:
        UserError: naming `where` and what is wrong with the row.
    """
    for name in ("prompt", "completion", "label"):
        if record.get(name) is None:
            raise UserError(f"{where}: the key '{name}' is missing; it has {', '.join(sorted(record)) or 'no keys'}")
    given = record["label"]
    if not isinstance(given, bool | int | str) or given not in _LABELS:
        raise UserError(f"{where}: 'label' must be true or false, 1 or 0, good or bad, got {given!r:.80}")
    completion = record["completion"]
    try:
        prompt, text, _ = parse_pair({"prompt": record["prompt"], "chosen": completion, "rejected": completion}, where)
    except UserError as error:
        raise UserError(str(error).replace("chosen and rejected must each be", "the completion must be")) from error
    return prompt, text, _LABELS[given]


def _row(
    record: Mapping[str, Any], prompt: list[dict[str, str]], completion: str, label: bool, *, source: str
) -> dict[str, Any]:
    prompt_id = content_hash(_text(prompt))
    return {
        "answer_id": content_hash(prompt_id, completion),
        "prompt_id": prompt_id,
        "prompt": prompt,
        "completion": [{"role": "assistant", "content": completion.strip()}],
        "label": label,
        "kind": str(record.get("kind") or "labelled"),
        "source": str(record.get("source") or source),
    }


def _text(prompt: list[dict[str, str]]) -> str:
    """A prompt as one string, for its hash: the same as a file of pairs takes, so both put it on the same side."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in prompt)


def _plain(prompt: list[dict[str, str]]) -> str:
    return " ".join(_text(prompt).casefold().split())
