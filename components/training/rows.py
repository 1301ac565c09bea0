"""Rows of a table become token ids in batch order, in one Arrow file that every worker maps into memory."""

import hashlib
import math
import os
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError


@dataclass(frozen=True)
class Tokenized:
    """Rows of ids, each with its length in tokens, and how many rows were too long to be kept."""

    rows: list[dict[str, Any]]
    lengths: list[int]
    dropped: int


def tokenize(
    rows: Iterable[Mapping[str, Any]],
    convert: Callable[[Mapping[str, Any]], tuple[dict[str, Any], int]],
    *,
    max_tokens: int,
    what: str,
    limit_key: str = "max_tokens",
) -> Tokenized:
    """Return ``convert(row)`` = (ids, tokens) of each row that has at most ``max_tokens`` tokens.

    A row is dropped whole, never cut: a cut demonstration teaches not to stop, a cut pair compares nothing.

    Args:
        limit_key: what the configuration calls ``max_tokens``, for whoever has to raise it.

    Raises:
        UserError: there are no rows, or none is short enough.
    """
    kept, lengths, longest = [], [], 0
    total = 0
    for row in rows:
        total += 1
        ids, length = convert(row)
        longest = max(longest, length)
        if length <= max_tokens:
            kept.append(ids)
            lengths.append(length)
    if not total:
        raise UserError(f"{what} has no rows: build the table with rows in this split, or give another one")
    if not kept:
        raise UserError(
            f"all {total} rows of {what} are longer than {limit_key}={max_tokens} (the longest has {longest} tokens): "
            f"raise {limit_key}"
        )
    return Tokenized(kept, lengths, total - len(kept))


def steps_of(rows: int, epochs: float, batch_size: int) -> int:
    """Return the number of optimizer steps nearest to ``epochs`` passes, at least one; every step is full."""
    return max(1, math.floor(rows * epochs / batch_size + 0.5))


def batch_order(lengths: Sequence[int], steps: int, batch_size: int, seed: int, *, window: int = 8) -> list[int]:
    """Return row numbers for ``steps`` full batches: shuffled, but with rows of like length in a batch.

    Each pass over the rows is one shuffle; within ``window`` batches rows are sorted by length before they
    are dealt into batches, and the batches are shuffled again. In a batch the rows stay in order of length,
    so that its micro-batches pad little, whatever their size.
    """
    generator = random.Random(seed)
    stream: list[int] = []
    while len(stream) < steps * batch_size:
        once = list(range(len(lengths)))
        generator.shuffle(once)
        stream.extend(once)
    stream = stream[: steps * batch_size]
    order: list[int] = []
    for start in range(0, len(stream), window * batch_size):
        pool = sorted(stream[start : start + window * batch_size], key=lambda row: (lengths[row], row))
        batches = [pool[at : at + batch_size] for at in range(0, len(pool), batch_size)]
        generator.shuffle(batches)
        order.extend(row for batch in batches for row in batch)
    return order


def write_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> str:
    """Write rows to one Parquet file, whole or not at all, and return its path."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_suffix(".half")
    pq.write_table(pa.Table.from_pylist(list(rows)), half)
    os.replace(half, path)
    return str(path)


def read_rows(path: str) -> Any:
    """Return the rows of ``write_rows`` as a ``datasets.Dataset``, without its cache folder in the home directory."""
    import pyarrow.parquet as pq
    from datasets import Dataset
    from datasets.table import InMemoryTable

    return Dataset(InMemoryTable(pq.read_table(path)), fingerprint=hashlib.sha256(path.encode()).hexdigest()[:16])


def read_split(
    table: str,
    split: str,
    convert: Callable[[Mapping[str, Any]], tuple[dict[str, Any], int]],
    *,
    columns: Sequence[str],
    max_tokens: int,
    where: str | None = None,
) -> Tokenized:
    """Return one split of a table as ids, or those of its rows that meet the SQL condition ``where``.

    Args:
        columns: what ``convert`` reads of a row.

    Raises:
        UserError: the table is missing or lacks a column, no row is left, all are too long, or the condition is none.
    """
    from components.data import store

    rows = store.read(table, columns=columns, where=split_condition(split, where))
    what = f"split '{split}' of {table}" + (f" where {where}" if where else "")
    return tokenize(rows, convert, max_tokens=max_tokens, what=what)


def split_condition(split: str, where: str | None = None) -> str:
    """Return the SQL condition that is met by the rows of a split that also meet ``where``."""
    return f"split = '{split}'" + (f" and ({where})" if where else "")


def read_sample(
    table: str,
    split: str,
    convert: Callable[[Mapping[str, Any]], tuple[dict[str, Any], int]],
    *,
    columns: Sequence[str],
    max_tokens: int,
    size: int,
    seed: int,
) -> Tokenized | None:
    """Return at most ``size`` rows of a split, drawn by ``seed``, as ids; none where there are none to draw.

    Raises:
        UserError: the table is missing or lacks a column, or all rows of the sample are too long.
    """
    from components.data import store

    rows = store.read(table, columns=columns, where=f"split = '{split}'") if size else []
    if not rows:
        return None
    rows = random.Random(seed).sample(rows, min(size, len(rows)))
    return tokenize(rows, convert, max_tokens=max_tokens, what=f"split '{split}' of {table}")
