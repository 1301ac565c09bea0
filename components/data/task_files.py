"""Files and tables of questions with answers: examples to show, and tasks to be measured or trained on."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

from components.config import UserError

_MARK = re.compile(r"<<[^<>]*>>")  # of GSM8K: how a number was computed


def read_tasks(source: str) -> list[dict[str, str]]:
    """Return the rows (question, reasoning, answer) of a .jsonl or .jsonl.gz file, or of a table.

    An answer that ends in `#### N`, as GSM8K has them, is taken apart into reasoning and answer.

    Raises:
        UserError: it cannot be read, or a row has no question or no answer (it is named).
    """
    rows = []
    for number, row in enumerate(_rows(source), 1):
        if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("question", "answer")):
            raise UserError(f"{source}, row {number}: needs the texts 'question' and 'answer'")
        reasoning, answer = str(row.get("reasoning") or ""), row["answer"]
        if not reasoning and "####" in answer:
            reasoning, _, answer = answer.rpartition("####")
        if not row["question"].strip() or not answer.strip():
            raise UserError(f"{source}, row {number}: its question or its answer is empty")
        plain = {"question": row["question"], "reasoning": _MARK.sub("", reasoning).strip(), "answer": answer.strip()}
        rows.append(plain)
    if not rows:
        raise UserError(f"{source} has no rows: give question, answer and perhaps reasoning in each")
    return rows


def _rows(source: str) -> list[Any]:
    if "#" in source and not Path(source).is_file():
        from components.data import store

        return store.read(store.pin(source))
    try:
        data = Path(source).read_bytes()
        text = (gzip.decompress(data) if source.endswith(".gz") else data).decode()
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{source} cannot be read ({error}): give a .jsonl file, or a table") from error
