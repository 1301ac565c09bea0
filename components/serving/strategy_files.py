"""The files behind a strategy's options: examples to show, and the table of measured strategies."""

import gzip
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config import UserError
from components.serving.settings import ServedName

_MARK = re.compile(r"<<[^<>]*>>")  # of GSM8K: how a number was computed


def with_files(names: Sequence[ServedName]) -> tuple[ServedName, ...]:
    """Return the names with what the files in their options hold, so that whoever answers needs no files.

    Raises:
        UserError: a file is missing or holds something else.
    """
    return tuple(name.model_copy(update={"options": _read(name.options)}) for name in names)


def with_digests(name: ServedName) -> ServedName:
    """Return the name as lineage tells of it: what came from files by its SHA-256."""
    options = dict(name.options)
    for option in ("examples", "table"):
        if option in options and not isinstance(options[option], str):
            text = json.dumps(options[option], sort_keys=True)
            options[option] = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    return name.model_copy(update={"options": options})


def _read(options: dict[str, Any]) -> dict[str, Any]:
    read = dict(options)
    if isinstance(read.get("examples"), str):
        read["examples"] = read_examples(read["examples"])
    if isinstance(read.get("table"), str):
        try:
            read["table"] = json.loads(Path(read["table"]).read_text())
        except (OSError, ValueError) as error:
            message = f"auto's table {read['table']} cannot be read ({error}): `workflows.evaluate reasoning` makes one"
            raise UserError(message) from error
    return read


def read_examples(source: str) -> list[dict[str, str]]:
    """Return the rows (question, reasoning, answer) of a .jsonl or .jsonl.gz file, or of a table.

    An answer that ends in `#### N`, as GSM8K has them, is taken apart into reasoning and answer.

    Raises:
        UserError: it cannot be read, or a row has no question or no answer (it is named).
    """
    rows = []
    for number, row in enumerate(_rows(source), 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("question", "answer")):
            raise UserError(f"{source}, row {number}: an example needs the texts 'question' and 'answer'")
        reasoning, answer = str(row.get("reasoning") or ""), row["answer"]
        if not reasoning and "####" in answer:
            reasoning, _, answer = answer.rpartition("####")
        plain = {"question": row["question"], "reasoning": _MARK.sub("", reasoning).strip(), "answer": answer.strip()}
        rows.append(plain)
    if not rows:
        raise UserError(f"{source} has no examples: give question, reasoning and answer in each row")
    return rows


def _rows(source: str) -> list[Any]:
    if "#" in source and not Path(source).is_file():
        from components.data import store

        return store.read(store.pin(source))
    try:
        data = Path(source).read_bytes()
        text = (gzip.decompress(data) if source.endswith(".gz") else data).decode()
        return [json.loads(line) for line in text.splitlines() if line.strip()]
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"the examples in {source} cannot be read ({error}): give a .jsonl file or a table") from error
