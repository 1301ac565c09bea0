"""LanceDB tables: the only door to lancedb; every reference can pin the version it means.

A reference is ``<folder or URI>#<table>@<version>``; without ``@<version>`` it means the latest. The version is a
number, or a tag's name, which moves.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from components import storage
from components.config import UserError

if TYPE_CHECKING:
    import pyarrow as pa
    from filelock import FileLock

COMPLETE = "complete"  # the tag of the version that readers see of a table that takes several commits to change
_KEYS_PER_DELETE = 500


def connect(uri: str) -> Any:
    """Return the LanceDB connection of a folder or an object-store URI; a missing folder is made."""
    os.environ.setdefault("LANCEDB_LOG", "error")  # it warns of every table that is new
    import lancedb

    return lancedb.connect(uri, storage_options=storage.table_options(uri))


def parse_ref(ref: str) -> tuple[str, str, int | str | None]:
    """Return (uri, table, version, tag or None) of a table reference.

    Raises:
        UserError: it has no ``#table`` part, or a version that is neither a positive number nor a tag's name.
    """
    uri, hash_mark, name = ref.rpartition("#")
    name, at, version = name.partition("@")
    if not (uri and hash_mark and name):
        raise UserError(f"'{ref}' is no table reference: write <folder>#<table> or <folder>#<table>@<version>")
    if not at:
        return uri, name, None
    if version.isidentifier() and version != "latest":
        return uri, name, version
    if not version.isdigit() or int(version) < 1:
        raise UserError(f"'{ref}' asks for version '{version}': a version is a positive number, as in #{name}@3")
    return uri, name, int(version)


def make_ref(uri: str, name: str, version: int | str | None = None) -> str:
    """Return the reference that ``parse_ref`` takes apart; a local folder becomes absolute."""
    place = uri if "://" in uri else os.path.abspath(uri)
    return f"{place}#{name}" + (f"@{version}" if version is not None else "")


def exists(ref: str) -> bool:
    """Return whether the table is there (its version is not looked at)."""
    uri, name, _ = parse_ref(ref)
    return _open_latest(uri, name) is not None


def pin(ref: str) -> str:
    """Return the reference with a version: its own, else the one tagged as complete, else the table's latest."""
    uri, name, version = parse_ref(ref)
    table = open_table(ref)
    tag = table.tags.list().get(COMPLETE) if version is None else None
    return make_ref(uri, name, int(tag["version"]) if tag else table.version)


def open_table(ref: str) -> Any:
    """Return the LanceDB table at the reference's version; searches accept it in place of the reference.

    Raises:
        UserError: the folder, the table or the version does not exist.
    """
    uri, name, version = parse_ref(ref)
    table = _open_latest(uri, name)
    if table is None:
        raise UserError(f"there is no table '{name}' in {uri}: run the workflow that writes it, or correct '{ref}'")
    if version is not None:
        try:
            table.checkout(version)
        except (ValueError, OSError, RuntimeError) as error:
            raise UserError(
                f"table '{name}' in {uri} has no version {version} (its latest is {table.version}): "
                f"correct '{ref}', or leave the version out for the latest"
            ) from error
    return table


def write(uri: str, name: str, rows: Sequence[dict[str, Any]] | pa.Table, *, schema: pa.Schema, key: str | None) -> str:
    """Upsert rows by ``key`` (append them if None) in one commit, making the table if needed; return its pinned ref.

    Of several rows with one key the last wins. No rows make an empty table, or leave it as it is.

    Raises:
        UserError: the table exists with other columns.
        ValueError: a row lacks a column, or has one that the schema does not know.
    """
    from components.data.schemas import as_table

    batch = as_table(rows, schema)
    with _turn(uri, name):
        table = _open_latest(uri, name)
        if table is None:
            table = connect(uri).create_table(name, schema=schema, exist_ok=True)
        _check_same_schema(table.schema, schema, f"{uri}#{name}")
        if batch.num_rows and key is None:
            table.add(batch)
        elif batch.num_rows and key is not None:
            upsert = table.merge_insert(key).when_matched_update_all().when_not_matched_insert_all()
            upsert.execute(_last_of_each(batch, key))
        return make_ref(uri, name, table.version)


def overwrite(uri: str, name: str, rows: Sequence[dict[str, Any]] | pa.Table, schema: pa.Schema) -> str:
    """Replace the table's rows and columns in one commit; older versions stay readable. Return its pinned ref."""
    from components.data.schemas import as_table

    return overwrite_in_parts(uri, name, [as_table(rows, schema)], schema)


def overwrite_in_parts(uri: str, name: str, parts: Iterable[pa.Table], schema: pa.Schema) -> str:
    """``overwrite`` by parts, one in memory at a time."""
    import pyarrow as pa

    from components.data.schemas import as_table

    batches = (batch for part in parts for batch in as_table(part, schema).to_batches())
    with _turn(uri, name):
        stream = pa.RecordBatchReader.from_batches(schema, batches)
        table = connect(uri).create_table(name, data=stream, schema=schema, mode="overwrite")
        return make_ref(uri, name, table.version)


def drop_all(uri: str) -> None:
    """Remove all tables of a folder that nobody else uses."""
    connect(uri).drop_all_tables()
    if "://" not in uri:
        shutil.rmtree(uri, ignore_errors=True)


def delete(uri: str, name: str, column: str, values: Sequence[str]) -> str:
    """Delete the rows whose ``column`` is one of ``values``; return the pinned ref of what is left."""
    with _turn(uri, name):
        table = open_table(make_ref(uri, name))
        for start in range(0, len(values), _KEYS_PER_DELETE):
            table.delete(one_of(column, values[start : start + _KEYS_PER_DELETE]))
        return make_ref(uri, name, table.version)


def quote(value: str) -> str:
    """Return a string as an SQL literal, for ``where``."""
    return "'" + value.replace("'", "''") + "'"


def one_of(column: str, values: Iterable[str]) -> str:
    """Return the condition that a column has one of the values, for ``where``; ``values`` must not be empty."""
    return f"`{column}` IN ({', '.join(quote(value) for value in values)})"


def read(
    ref: str, *, columns: Sequence[str] | None = None, where: str | None = None, require: bool = False
) -> list[dict[str, Any]]:
    """Return rows as plain dicts; ``require`` makes an empty selection an error. Raises as ``read_arrow``."""
    return read_arrow(ref, columns=columns, where=where, require=require).to_pylist()


def stream(ref: str) -> Iterator[dict[str, Any]]:
    """Yield all rows as plain dicts, a batch in memory at a time. Raises as ``open_table``."""
    for batch in open_table(ref).search().limit(None).to_batches():
        yield from batch.to_pylist()


def read_arrow(
    ref: str, *, columns: Sequence[str] | None = None, where: str | None = None, require: bool = False
) -> pa.Table:
    """Return rows of the reference's version as Arrow.

    Raises:
        UserError: table or version missing, unknown column, bad ``where``, or nothing found while ``require``.
    """
    table = check_columns(ref, columns or ())
    query = table.search().limit(None)
    if columns is not None:
        query = query.select(list(columns))
    if where is not None:
        query = query.where(where)
    try:
        found = query.to_arrow()
    except ValueError as error:
        raise UserError(f"cannot select from {ref} where {where}: {_first_line(error)}") from error
    if require and not found.num_rows:
        raise UserError(f"{ref} has no rows{f' where {where}' if where else ''}: run the workflow that fills it")
    return found


def check_columns(ref: str, columns: Iterable[str]) -> Any:
    """Return the opened table; raise UserError where it is missing, or has not all of the columns."""
    table = open_table(ref)
    if unknown := [column for column in columns if column not in table.schema.names]:
        raise UserError(f"{ref} has no column '{unknown[0]}': it has {', '.join(table.schema.names)}")
    return table


def rows(table: Any, columns: Sequence[str], where: str) -> list[dict[str, Any]]:
    """Return ``columns`` of all rows of an opened table that meet ``where``. Raises UserError on a bad ``where``."""
    return to_rows(table.search().limit(None).select(list(columns)), table, where)


def to_rows(query: Any, table: Any, where: str | None) -> list[dict[str, Any]]:
    """Return what a LanceDB query of an opened table finds among the rows that meet ``where``.

    Raises:
        UserError: bad ``where``.
    """
    try:
        return (query.where(where, prefilter=True) if where else query).to_list()
    except ValueError as error:
        if where is None:
            raise
        raise UserError(f"cannot search table '{table.name}' where {where}: {_first_line(error)}") from error


def count(ref: str, where: str | None = None) -> int:
    """Return the number of rows. Raises as ``read_arrow``."""
    try:
        return open_table(ref).count_rows(where)
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot count {ref} where {where}: {_first_line(error)}") from error


def move_tag(ref: str, tag: str) -> str:
    """Let ``tag`` mean the reference's version, and return the reference by the tag.

    Raises:
        UserError: it is no name that a reference can carry.
    """
    if not tag.isidentifier() or tag == "latest":
        raise UserError(f"'{tag}' cannot name a version: use letters, digits and _, and not 'latest'")
    uri, name, _ = parse_ref(ref)
    table = open_table(ref)
    (table.tags.update if tag in table.tags.list() else table.tags.create)(tag, table.version)
    return make_ref(uri, name, tag)


def tagged(ref: str, tag: str) -> str | None:
    """Return the pinned reference that ``tag`` of the reference's table means; None where there is no such tag."""
    uri, name, _ = parse_ref(ref)
    found = open_table(make_ref(uri, name)).tags.list().get(tag)
    return None if found is None else make_ref(uri, name, int(found["version"]))


def _open_latest(uri: str, name: str) -> Any | None:
    if "://" not in uri and not os.path.isdir(uri):
        return None  # lancedb would make the folder
    try:
        return connect(uri).open_table(name)
    except ValueError as error:
        if "was not found" in str(error):
            return None
        raise


def lock_of(uri: str, name: str) -> FileLock:
    """Return a lock that one process at a time can hold; the kernel frees a killed one's.

    It is a file, as LanceDB has no locks: beside the tables on a disk; for those in an object store in their scratch
    folder, which the hosts that work on one storage share. Clusters that do not share it must not change one table at
    once.
    """
    from filelock import FileLock

    folder = storage.folder(uri)
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f".{name}.lock")


def _turn(uri: str, name: str) -> FileLock:
    """Return what lets one process at a time change a table.

    Left to itself, LanceDB refuses or drops one of two changes at once, as it comes: two overwritings conflict, two
    that make a table replace one another, two upserts of one new key both insert it.
    """
    return lock_of(uri, f"{name}.commit")


def _check_same_schema(found: pa.Schema, expected: pa.Schema, where: str) -> None:
    shapes = [{field.name: field.type for field in schema} for schema in (found, expected)]
    if shapes[0] != shapes[1]:
        names = sorted({name for name, _ in shapes[0].items() ^ shapes[1].items()})
        raise UserError(
            f"table {where} exists with other columns (they differ in {', '.join(names)}): "
            "write to another table or storage, or remove it"
        )


def _last_of_each(batch: pa.Table, key: str) -> pa.Table:
    last = {value: position for position, value in enumerate(batch.column(key).to_pylist())}
    return batch if len(last) == batch.num_rows else batch.take(sorted(last.values()))


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]
