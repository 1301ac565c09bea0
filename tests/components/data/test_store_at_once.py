"""Several who write to one store at once: each gets the version that it made, and no row is lost."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from components.data import store

SCHEMA = pa.schema([("key", pa.string()), ("value", pa.int64())])
WRITERS, TURNS = 4, 5


def at_once(work: Callable[[int], object]) -> list:
    """Start all writers at the same moment and return what each returned."""
    barrier = threading.Barrier(WRITERS)

    def begin(writer: int) -> object:
        barrier.wait()
        return work(writer)

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(begin, range(WRITERS)))


def own_rows(writer: int, turn: int) -> list[dict]:
    return [{"key": f"{writer}-{number}", "value": turn} for number in range(3)]


@pytest.mark.parametrize("exists", [False, True])
def test_each_overwriting_is_a_version_of_its_own(tmp_path: Path, exists: bool) -> None:
    uri = str(tmp_path / "lancedb")
    if exists:
        store.overwrite(uri, "table", own_rows(9, 9), SCHEMA)

    def overwrite(writer: int) -> list[tuple[str, list[dict]]]:
        return [
            (store.overwrite(uri, "table", own_rows(writer, turn), SCHEMA), own_rows(writer, turn))
            for turn in range(TURNS)
        ]

    made = [one for ones in at_once(overwrite) for one in ones]
    assert len({ref for ref, _ in made}) == WRITERS * TURNS
    for ref, rows in made:
        assert store.read(ref) == rows


@pytest.mark.parametrize("key", ["key", None])
@pytest.mark.parametrize("exists", [False, True])
def test_no_row_is_lost(tmp_path: Path, exists: bool, key: str | None) -> None:
    uri = str(tmp_path / "lancedb")
    if exists:
        store.write(uri, "table", [], schema=SCHEMA, key=key)

    def write(writer: int) -> None:
        for turn in range(TURNS):
            ref = store.write(uri, "table", own_rows(writer, turn), schema=SCHEMA, key=key)
            kept = [row for row in store.read(ref) if row["key"].startswith(f"{writer}-")]
            assert {row["value"] for row in kept} == ({turn} if key else set(range(turn + 1)))

    at_once(write)
    rows = store.read(store.pin(f"{uri}#table"))
    assert len(rows) == WRITERS * 3 * (1 if key else TURNS)
    assert len({row["key"] for row in rows}) == WRITERS * 3


def test_rows_of_one_key_are_one_row_whoever_wrote_them(tmp_path: Path) -> None:
    uri = str(tmp_path / "lancedb")

    def write(writer: int) -> None:
        for turn in range(TURNS):  # the same keys as the others, new in each turn
            rows = [{"key": f"{turn}-{number}", "value": writer} for number in range(3)]
            store.write(uri, "table", rows, schema=SCHEMA, key="key")

    at_once(write)
    assert len(store.read(f"{uri}#table")) == store.count(f"{uri}#table") == TURNS * 3
