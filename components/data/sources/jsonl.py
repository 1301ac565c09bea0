"""A JSON-lines file: one object a line, whose keys the config names."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from components.config import Field, InputPath, UserError
from components.data.records import Document, content_hash
from components.data.sources import SourceConfig

_LINES_PER_PART = 500


class Jsonl(SourceConfig):
    """A JSON-lines file of documents."""

    name: Literal["jsonl"]
    path: InputPath = Field(description="the file, UTF-8, one JSON object a line")
    text: str = Field("text", description="key of the text; every row must have it")
    id: str = Field("id", description="key of the row's own name, where it has one")
    title: str = Field("title", description="key of the title, where it has one")
    group: str = Field("group", description="key of what the row belongs to, where it has one")
    source: str = Field("source", description="key of where the text is from, where it has one")


def jsonl(config: Jsonl) -> list[dict[str, Any]]:
    """Return the file in parts of some hundred lines; every row is checked here, before anything starts.

    Raises:
        UserError: with file and line: no JSON object, no text, or an id that another row has; or the
            file is missing or has no rows.
    """
    path = Path(config.path).expanduser()
    if not path.is_file():
        what = "is a folder: name one file" if path.exists() else "does not exist"
        raise UserError(f"source.path names {config.path}, which {what}")
    parts: list[dict[str, Any]] = []
    lines_of_id: dict[str, int] = {}
    offset = rows = 0
    with path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                where = f"{config.path}, line {number}"
                doc_id = _document(_row(line, config.text, where), config, where).doc_id
                if doc_id in lines_of_id:
                    raise UserError(f"{where}: the same {config.id} or text as line {lines_of_id[doc_id]}: remove one")
                lines_of_id[doc_id] = number
                if rows % _LINES_PER_PART == 0:
                    parts.append(_part(config, path, offset, number))
                rows += 1
            offset += len(line)
            if parts:
                parts[-1]["length"] = offset - parts[-1]["offset"]
    if not parts:
        raise UserError(f"source.path names {config.path}, which holds no rows")
    return parts


def read(part: dict[str, Any]) -> Iterator[Document]:
    """Yield the documents of one part of the file."""
    config = Jsonl.model_validate(part["config"])
    try:
        with open(part["path"], "rb") as stream:
            stream.seek(part["offset"])
            lines = stream.read(part["length"]).split(b"\n")
    except OSError as error:
        raise UserError(f"{part['path']} cannot be read any more ({error}): was it moved?") from error
    for line in lines:
        if line.strip():
            yield _document(_row(line, config.text, part["doc_id"]), config, part["doc_id"])


def _part(config: Jsonl, path: Path, offset: int, line: int) -> dict[str, Any]:
    doc_id = f"{path.name} from line {line}"
    return {"doc_id": doc_id, "path": str(path.resolve()), "offset": offset, "config": config.model_dump()}


def _row(line: bytes, text_key: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error}): write one object a line") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(row).__name__}")
    if not isinstance(row.get(text_key), str) or not row[text_key].strip():
        has = ", ".join(map(str, row)) or "none"
        raise UserError(f"{where}: no text under the key '{text_key}' (its keys: {has}); source.text names the key")
    return row


def _document(row: dict[str, Any], config: Jsonl, where: str) -> Document:
    named = {config.text, config.id, config.title, config.group, config.source}
    doc_id = _string(row, config.id, where) or content_hash(row[config.text])
    return Document(
        doc_id=doc_id,
        text=row[config.text],
        source=_string(row, config.source, where) or f"{Path(config.path).name}#{doc_id}",
        title=_string(row, config.title, where) or doc_id,
        group=_string(row, config.group, where),
        metadata=json.dumps({key: value for key, value in row.items() if key not in named}),
    )


def _string(row: dict[str, Any], key: str, where: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return str(value)
    raise UserError(f"{where}: '{key}' must be text or a number, got {type(value).__name__}")
