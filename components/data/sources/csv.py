"""A CSV file: a row a document, whose columns the config names."""

import contextlib
import csv as _csv
import io
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import field_validator

from components.config import Field, UserError
from components.data.records import Document
from components.data.sources._encodings import Encoding
from components.data.sources._rows import MAX_ROW_BYTES, Parts, RowsConfig, bytes_of, document_of, existing_file, lines


class Csv(RowsConfig):
    """A CSV file of documents: a header, then a row a document; cells in quotes may hold line ends."""

    name: Literal["csv"]
    text: list[str] = Field(
        ["text"], min_length=1, description="columns of the text; several become lines of 'column: value'"
    )
    delimiter: str = Field(",", min_length=1, max_length=1, description="character between cells")
    encoding: Encoding = Field(None, description="encoding of the file; none is UTF-8")

    @field_validator("text", mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


def csv(config: Csv) -> list[dict[str, Any]]:
    """Return the file in parts of some hundred rows; every row is checked here, before anything starts.

    Raises:
        UserError: with file and line: another number of cells than the header's, no text, or an id that another row
            has, unless wrong rows are put aside; or the file is missing, has no such columns, no rows, is in another
            encoding, or has a quote that does not end.
    """
    path = existing_file(config)
    with path.open("rb") as stream, _long_cells():
        places = _Lines(stream, config)
        rows = _csv.reader(places, delimiter=config.delimiter, strict=True)
        columns = _header(next(_parsed(rows, config, places), None), config)
        found = Parts(config, path, {"columns": columns})
        start, line = places.offset, places.number + 1
        for row in _parsed(rows, config, places):
            if row:
                _add(found, row, columns, config, (start, places.offset, line))
            start, line = places.offset, places.number + 1
    return found.finished()


def read(part: dict[str, Any]) -> Iterator[Document]:
    """Yield the documents of one part of the file."""
    data = bytes_of(part)
    config, skipped = Csv.model_validate(part["config"]), set(part["skipped"])
    with _long_cells():
        text = io.StringIO(data.decode(config.encoding or "utf-8"), newline="")
        rows = [row for row in _csv.reader(text, delimiter=config.delimiter) if row]
    for number, row in enumerate(rows):
        if number not in skipped:
            try:
                yield _document(row, part["columns"], config)
            except ValueError as error:
                raise UserError(f"{part['doc_id']}: {error}; was the file changed since it was checked?") from error


class _Lines:
    """The file's lines as text, counting what was handed out."""

    def __init__(self, stream: Any, config: Csv) -> None:
        self._lines, self._config = lines(stream), config
        self.offset = self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        size, line = next(self._lines)
        where = f"{self._config.path}, line {self.number + 1}"
        if line is None:
            raise UserError(f"{where}: it is longer than {MAX_ROW_BYTES >> 20} MiB: is it a CSV file?")
        name = self._config.encoding or ("utf-8" if self.number else "utf-8-sig")
        try:
            text = line.decode(name)
        except UnicodeDecodeError as error:
            raise UserError(f"{where}: it is not {name} text: name the file's encoding in source.encoding") from error
        self.offset, self.number = self.offset + size, self.number + 1
        return text


def _parsed(rows: Any, config: Csv, places: _Lines) -> Iterator[list[str]]:
    while True:
        start = places.number + 1
        try:
            row = next(rows, None)
        except _csv.Error as error:
            raise UserError(f"{config.path}, line {start}: {error}: does a quote that opens there end?") from error
        if row is None:
            return
        yield row


def _header(row: list[str] | None, config: Csv) -> list[str]:
    if not row:
        raise UserError(f"source.path names {config.path}, which holds no header: name its columns in the first row")
    columns = [name.strip() for name in row]
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise UserError(f"{config.path} has two columns named '{twice}': rename one")
    missing = [name for name in config.text if name not in columns]
    if missing:
        raise UserError(
            f"{config.path} has no column '{missing[0]}' (its columns: {', '.join(columns)}); source.text names those "
            "of the text, source.delimiter what is between cells"
        )
    return columns


def _add(found: Parts, row: list[str], columns: list[str], config: Csv, place: tuple[int, int, int]) -> None:
    start, end, line = place
    doc_id: str | None = None
    wrong: str | None = None
    try:
        doc_id = _document(row, columns, config).doc_id
    except ValueError as error:
        wrong = str(error)
    found.add(doc_id, start, end, line, wrong)


def _document(row: list[str], columns: list[str], config: Csv) -> Document:
    if len(row) != len(columns):
        raise ValueError(f"it has {len(row)} cells, and the header has {len(columns)}")
    cells = {name: value for name, value in zip(columns, row, strict=True) if value.strip()}
    texts = [(name, cells[name]) for name in config.text if name in cells]
    joined = texts[0][1] if len(config.text) == 1 and texts else "\n".join(f"{name}: {value}" for name, value in texts)
    return document_of(cells, joined, set(config.text), config)


@contextlib.contextmanager
def _long_cells() -> Iterator[None]:
    """Let a cell be as long as a row may be; the csv module keeps one limit for all."""
    before = _csv.field_size_limit(MAX_ROW_BYTES)
    try:
        yield
    finally:
        _csv.field_size_limit(before)
