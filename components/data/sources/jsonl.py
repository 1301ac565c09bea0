"""A JSON-lines file: one object a line, whose keys the config names."""

import json
from collections.abc import Iterator
from typing import Any, Literal

from components.config import Field, UserError
from components.data.records import Document
from components.data.sources._rows import MAX_ROW_BYTES, Parts, RowsConfig, bytes_of, document_of, existing_file, lines


class Jsonl(RowsConfig):
    """A JSON-lines file of documents: UTF-8, one JSON object a line."""

    name: Literal["jsonl"]
    text: str = Field("text", description="key of the text; every row must have it")


def jsonl(config: Jsonl) -> list[dict[str, Any]]:
    """Return the file in parts of some hundred lines; every row is checked here, before anything starts.

    Raises:
        UserError: with file and line: no JSON object, no text, or an id that another row has, unless wrong rows are
            put aside; or the file is missing or has no rows.
    """
    path = existing_file(config)
    found, offset = Parts(config, path), 0
    with path.open("rb") as stream:
        for number, (size, line) in enumerate(lines(stream), 1):
            if line is None:
                found.leave_out(number, f"it is longer than {MAX_ROW_BYTES >> 20} MiB: is the file one JSON array?")
            elif line.strip():
                try:
                    found.add(_document(line, config).doc_id, offset, offset + size, number)
                except UserError:
                    raise
                except ValueError as error:
                    found.add(None, offset, offset + size, number, wrong=str(error))
            offset += size
    return found.finished()


def read(part: dict[str, Any]) -> Iterator[Document]:
    """Yield the documents of one part of the file."""
    rows = [line for line in bytes_of(part).split(b"\n") if line.strip()]
    config, skipped = Jsonl.model_validate(part["config"]), set(part["skipped"])
    for number, line in enumerate(rows):
        if number not in skipped:
            try:
                yield _document(line, config)
            except ValueError as error:
                raise UserError(f"{part['doc_id']}: {error}; was the file changed since it was checked?") from error


def _document(line: bytes, config: Jsonl) -> Document:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not valid JSON ({error}): write one object a line") from error
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, got {type(row).__name__}")
    text = row.get(config.text)
    if not isinstance(text, str) or not text.strip():
        has = ", ".join(map(str, row)) or "none"
        raise ValueError(f"no text under the key '{config.text}' (its keys: {has}); source.text names the key")
    return document_of(row, text, {config.text}, config)
