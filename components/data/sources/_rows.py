"""What files of rows have in common: the keys of a row, wrong rows, and parts of the file that a worker reads."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Literal

from components.config import Field, InputPath, UserError
from components.data.readers import iso_date
from components.data.records import Document, content_hash
from components.data.sources import SourceConfig, Unreadable

MAX_ROW_BYTES = 16 << 20
_ROWS_PER_PART = 500
_BYTES_PER_PART = 8 << 20
_HOLDS = "any"  # document: a line's name does not tell which


class RowsConfig(SourceConfig):
    """What the config of every file of rows has."""

    path: InputPath = Field(description="the file")
    id: str = Field("id", description="key of the row's own name, where it has one")
    title: str = Field("title", description="key of the title, where it has one")
    group: str = Field("group", description="key of what the row belongs to, where it has one")
    source: str = Field("source", description="key of where the text is from, where it has one")
    date: str | None = Field(None, description="key of the date, ISO 8601, where rows have one")
    wrong_rows: Literal["refuse", "quarantine"] = Field(
        "refuse", description="stop at the first wrong row before anything starts, or put wrong ones aside and go on"
    )


@dataclass
class Parts:
    """Gathers a file's rows into parts, each a range of bytes; wrong rows are refused or parts by themselves."""

    config: RowsConfig
    path: Path
    extra: dict[str, Any] = field(default_factory=dict)  # what a worker needs besides
    parts: list[dict[str, Any]] = field(default_factory=list)
    _lines_of_id: dict[str, int] = field(default_factory=dict)
    _rows: int = 0  # of the part at the end
    _open: dict[str, Any] | None = None

    def add(self, doc_id: str | None, start: int, end: int, line: int, wrong: str | None = None) -> None:
        """Add the row in the bytes ``start`` to ``end``, which begins at ``line``; ``wrong`` says what is.

        Raises:
            UserError: it is wrong or another row has its name, and wrong rows are refused.
        """
        if wrong is None and doc_id in self._lines_of_id:
            wrong = f"the same {self.config.id} or text as line {self._lines_of_id[doc_id]}: remove one"
        if wrong is None and doc_id is not None:
            self._lines_of_id[doc_id] = line
        if self._open is None or self._rows >= _ROWS_PER_PART or end - self._open["offset"] > _BYTES_PER_PART:
            self._begin(start, line)
        assert self._open is not None
        if wrong is not None:
            self._refuse(wrong, line)
            self._open["skipped"].append(self._rows)  # counted from 0
        self._rows += 1
        self._open |= {"length": end - self._open["offset"], "rows": self._rows}

    def leave_out(self, line: int, wrong: str) -> None:
        """Leave out bytes that are too many to be a row. Raises as ``add``."""
        self._refuse(wrong, line)
        self._open = None

    def finished(self) -> list[dict[str, Any]]:
        """Return the parts.

        Raises:
            UserError: there was no row.
        """
        if not self.parts:
            raise UserError(f"source.path names {self.config.path}, which holds no rows")
        return [part for part in self.parts if "error" in part or len(part["skipped"]) < part["rows"]]

    def _begin(self, start: int, line: int) -> None:
        self._rows = 0
        self._open = {
            "doc_id": f"{self.path.name} from line {line}",
            "holds": _HOLDS,
            "path": str(self.path.resolve()),
            "offset": start,
            "skipped": [],
            "config": self.config.model_dump(),
            **self.extra,
        }
        self.parts.append(self._open)

    def _refuse(self, wrong: str, line: int) -> None:
        if self.config.wrong_rows == "refuse":
            raise UserError(f"{self.config.path}, line {line}: {wrong}")
        self.parts.append({"doc_id": f"{self.path.name}, line {line}", "holds": _HOLDS, "error": wrong})


def existing_file(config: RowsConfig) -> Path:
    """Return the file of rows.

    Raises:
        UserError: it is missing, or a folder.
    """
    path = Path(config.path).expanduser()
    if not path.is_file():
        what = "is a folder: name one file" if path.exists() else "does not exist"
        raise UserError(f"source.path names {config.path}, which {what}")
    return path


def lines(stream: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield (its bytes, line with its end) for each line; of one that is too long for a row, (its bytes, None)."""
    while line := stream.readline(MAX_ROW_BYTES):
        size = len(line)
        if size < MAX_ROW_BYTES or line.endswith(b"\n"):
            yield size, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_ROW_BYTES)
            size += len(line)
        yield size, None


def bytes_of(part: dict[str, Any]) -> bytes:
    """Return the bytes of a part.

    Raises:
        Unreadable: the part is a wrong row.
        UserError: the file has gone since it was listed.
    """
    if "error" in part:
        raise Unreadable(part["error"])
    try:
        with open(part["path"], "rb") as stream:
            stream.seek(part["offset"])
            return stream.read(part["length"])
    except OSError as error:
        raise UserError(f"{part['path']} cannot be read any more ({error}): was it moved?") from error


def document_of(row: Mapping[str, Any], text: str, keys_of_text: set[str], config: RowsConfig) -> Document:
    """Return a row as a document; its keys that nothing names are metadata.

    Raises:
        ValueError: what is wrong with the row.
    """
    if not text.strip():
        raise ValueError("no text")
    _whole(text, "text")
    named = keys_of_text | {config.id, config.title, config.group, config.source, config.date or ""}
    doc_id = _string(row, config.id) or content_hash(text)
    written = _string(row, config.date) if config.date else ""
    date = iso_date(written) if written else None
    if written and date is None:
        raise ValueError(f"'{config.date}' must be a date as 2026-03-01, got {written!r}")
    return Document(
        doc_id=doc_id,
        text=text,
        source=_string(row, config.source) or f"{Path(config.path).name}#{doc_id}",
        title=_string(row, config.title) or doc_id,
        group=_string(row, config.group),
        metadata=json.dumps({key: value for key, value in row.items() if key not in named}),
        date=date,
    )


def _string(row: Mapping[str, Any], key: str) -> str:
    value = row.get(key)
    if value is None:
        return ""
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        return _whole(str(value), key)
    raise ValueError(f"'{key}' must be text or a number, got {type(value).__name__}")


def _whole(text: str, key: str) -> str:
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise ValueError(f"its {key} holds zero characters or halves of characters, which no text does: remove them")
    return text
