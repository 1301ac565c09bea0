"""A person's own file of rows, read one by one, each with the place that an error has to name."""

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components.config import UserError


def file_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, row) of everything in a .jsonl, .jsonl.gz or .parquet file.

    Raises:
        UserError: the file is missing, of another kind, or a row cannot be read (its line is named).
    """
    if not path.is_file():
        raise UserError(f"there is no preference file {path}: correct 'file'")
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        yield from _parquet(path)
    elif name.endswith((".jsonl", ".ndjson", ".json")):
        yield from _jsonl(path)
    else:
        raise UserError(f"{path} is of no kind that can be read: give a .jsonl, .jsonl.gz or .parquet file")


def _jsonl(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    number = 0
    open_text = gzip.open if path.suffix == ".gz" else open
    try:
        with open_text(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path} line {number}", _object(line, f"{path} line {number}")
    except (UnicodeDecodeError, EOFError, OSError) as error:
        raise UserError(f"{path} line {number + 1}: cannot be read as UTF-8 text ({error})") from error


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: no valid JSON ({error.msg} at column {error.colno})") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object with chosen and rejected, got {type(record).__name__}")
    return record


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches():
            for record in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", record
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from error
