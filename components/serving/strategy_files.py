"""The files behind a strategy's options: examples to show, and the table of measured strategies."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config import UserError
from components.data.task_files import read_tasks
from components.serving.settings import ServedName


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
        read["examples"] = read_tasks(read["examples"])
    if isinstance(read.get("table"), str):
        try:
            read["table"] = json.loads(Path(read["table"]).read_text())
        except (OSError, ValueError) as error:
            message = f"auto's table {read['table']} cannot be read ({error}): `workflows.evaluate reasoning` makes one"
            raise UserError(message) from error
    if isinstance(read.get("table"), dict) and isinstance(read["table"].get("rows"), list):
        rows = [{**row, "options": _read(row.get("options", {}))} for row in read["table"]["rows"]]
        read["table"] = {**read["table"], "rows": rows}
    return read
