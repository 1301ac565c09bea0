"""A person's own file of rows, read one by one or in pieces, each row with the place that an error has to name."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError

_PIECE_BYTES = 32 * 2**20
_READ_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Piece:
    """A part of a file that is read for itself."""

    path: str
    start: int = 0  # bytes into a .jsonl, the row group of a .parquet
    end: int | None = None  # where the next piece starts; None: all the rest
    before: int = 0  # lines, or rows, before it
    size: int | None = None  # lines, or rows, in it; None: nobody has counted


def file_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, row) of everything in a .jsonl, .jsonl.gz or .parquet file.

    Raises:
        UserError: the file is missing, of another kind, or a row cannot be read (its line is named).
    """
    return piece_rows(Piece(str(path)))


def piece_rows(piece: Piece) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file and line, row) of everything in one piece. Raises as ``file_rows``."""
    path = Path(piece.path)
    yield from (_parquet if _is_parquet(path) else _jsonl)(path, piece)


def pieces(path: Path, size_bytes: int = _PIECE_BYTES) -> list[Piece]:
    """The pieces of a file, of about ``size_bytes``; a packed one is a single piece, as nobody can enter its middle.

    Raises:
        UserError: the file is missing, of another kind, or no parquet although its name says so.
    """
    if _is_parquet(path):
        import pyarrow.parquet as pq
        from pyarrow import ArrowException

        try:
            found = pq.ParquetFile(path).metadata
        except (ArrowException, OSError) as error:
            raise UserError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from error
        counts = [found.row_group(number).num_rows for number in range(found.num_row_groups)]
        return [Piece(str(path), n, n + 1, sum(counts[:n]), count) for n, count in enumerate(counts)]
    if path.suffix == ".gz":
        return [Piece(str(path))]
    try:
        return list(_lines_apart(path, size_bytes))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _lines_apart(path: Path, size_bytes: int) -> Iterator[Piece]:
    """Yield pieces that end where a line does."""
    start = before = lines = 0
    with path.open("rb") as file:
        while chunk := file.read(_READ_BYTES):
            lines += chunk.count(b"\n")
            is_cut = not chunk.endswith(b"\n")
            if file.tell() - start >= size_bytes:
                if is_cut:
                    file.readline()
                yield Piece(str(path), start, file.tell(), before, lines + is_cut)
                start, before, lines = file.tell(), before + lines + is_cut, 0
        if file.tell() > start:
            yield Piece(str(path), start, None, before, lines + is_cut)


def _is_parquet(path: Path) -> bool:
    if not path.is_file():
        raise UserError(f"there is no preference file {path}: correct 'file'")
    name = path.name.removesuffix(".gz")
    if not name.endswith((".parquet", ".jsonl", ".ndjson", ".json")):
        raise UserError(f"{path} is of no kind that can be read: give a .jsonl, .jsonl.gz or .parquet file")
    return name.endswith(".parquet")


def _jsonl(path: Path, piece: Piece) -> Iterator[tuple[str, dict[str, Any]]]:
    number, place = piece.before, piece.start
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            file.seek(place)
            for number, line in enumerate(file, piece.before + 1):
                if line.strip():
                    yield f"{path} line {number}", _object(line.decode(), f"{path} line {number}")
                place += len(line)
                if piece.end is not None and place >= piece.end:
                    return
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        at = number if isinstance(error, UnicodeDecodeError) else number + 1
        raise UserError(f"{path} line {at}: cannot be read as UTF-8 text ({error})") from error


def json_value(line: str, where: str) -> Any:
    """The value of one line of JSON, all of whose text can be written again.

    Raises:
        UserError: naming ``where`` and what is wrong with the line.
    """
    try:
        value = json.loads(line)
        if "\\u" in line:  # the one way in which JSON can spell half a character
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: no valid JSON ({error.msg} at column {error.colno})") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: holds half of a character ({error.object[error.start]!a}): remove it") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
        raise UserError(f"{where}: no JSON that can be read ({error})") from error
    return value


def _object(line: str, where: str) -> dict[str, Any]:
    record = json_value(line, where)
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object with chosen and rejected, got {type(record).__name__}")
    return record


def _parquet(path: Path, piece: Piece) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow.parquet as pq
    from pyarrow import ArrowException

    number = piece.before
    groups = None if piece.end is None else range(piece.start, piece.end)
    try:
        for batch in pq.ParquetFile(path).iter_batches(row_groups=groups):
            for record in batch.to_pylist():
                number += 1
                yield f"{path} row {number}", record
    except (ArrowException, OSError) as error:
        raise UserError(f"{path} cannot be read as parquet: {str(error).splitlines()[0]}") from error
