"""Tables that are changed in several commits: what readers see, and what becomes of a change that did not end."""

import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest

from components import storage
from components.data import store, versions
from components.data.schemas import PASSAGE, passage_schema

SCHEMA = pa.schema([("id", pa.string()), ("text", pa.string())])


@pytest.fixture
def uri(tmp_path: Path) -> str:
    return str(tmp_path / "db")


def _write(uri: str, *ids: str) -> None:
    store.write(uri, "t", [{"id": key, "text": key} for key in ids], schema=SCHEMA, key="id")


def _seen(uri: str) -> set[str]:
    return {row["id"] for row in store.read(store.pin(f"{uri}#t"))}


def test_readers_see_a_change_when_it_is_whole(uri: str) -> None:
    assert not versions.begin(uri, "t", "one")
    assert versions.begin(uri, "t", "one", SCHEMA)
    _write(uri, "a")
    _write(uri, "b")
    assert _seen(uri) == set()
    published = versions.publish(uri, "t", "one")
    assert _seen(uri) == {"a", "b"} and published == store.pin(f"{uri}#t")
    versions.begin(uri, "t", "one")
    store.delete(uri, "t", "id", ["a"])
    _write(uri, "c")
    assert _seen(uri) == {"a", "b"}
    versions.publish(uri, "t", "one")
    assert _seen(uri) == {"b", "c"}
    assert {row["id"] for row in store.read(published)} == {"a", "b"}


def test_a_table_without_tags_is_read_as_ever(uri: str) -> None:
    _write(uri, "a")
    _write(uri, "b")
    assert _seen(uri) == {"a", "b"}
    versions.begin(uri, "t", "one")
    _write(uri, "c")
    assert _seen(uri) == {"a", "b"}


def test_a_change_that_did_not_end_is_gone_on_with_by_its_owner_and_taken_back_for_others(uri: str) -> None:
    _write(uri, "a")
    versions.begin(uri, "t", "one")
    _write(uri, "b")
    versions.begin(uri, "t", "one")  # the same again, after a kill: its work is there
    assert store.count(f"{uri}#t") == 2
    versions.begin(uri, "t", "two")
    assert {row["id"] for row in store.read(f"{uri}#t")} == {"a"}
    _write(uri, "c")
    versions.publish(uri, "t", "two")
    assert _seen(uri) == {"a", "c"}
    versions.begin(uri, "t", "one")
    _write(uri, "b")
    versions.publish(uri, "t", "one")
    assert _seen(uri) == {"a", "b", "c"}


def test_an_older_table_gets_the_columns_that_it_lacks(uri: str) -> None:
    new = [name for name in ("section", "page", "date") if name in PASSAGE.names]
    old = pa.schema([field for field in passage_schema(2) if field.name not in new])
    row = dict.fromkeys(old.names, "x") | {"start": 0, "end": 1, "n_tokens": 1, "vector": [1.0, 0.0]}
    store.write(uri, "t", [row], schema=old, key="passage_id")
    before = store.pin(f"{uri}#t")
    versions.widen(uri, "t", PASSAGE)
    versions.widen(uri, "t", PASSAGE)
    (found,) = store.read(f"{uri}#t")
    assert [found[name] for name in new] == [None] * 3 and found["vector"] == [1.0, 0.0]
    wide = {**row, "passage_id": "y", "page": "iv"}
    store.write(uri, "t", [wide, {**row, "section": "S"}], schema=passage_schema(2), key="passage_id")
    rows = {one["passage_id"]: one for one in store.read(f"{uri}#t")}
    assert (rows["x"]["section"], rows["y"]["page"], len(rows)) == ("S", "iv", 2)
    assert store.read(before) == [row]


@pytest.mark.parametrize("place", ["a folder", "an object store"])
def test_one_writer_at_a_time(uri: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(storage.SCRATCH_VARIABLE, str(tmp_path / "scratch"))
    if place != "a folder":
        uri = "s3://no-such-bucket/lancedb"
    order: list[str] = []

    def other() -> None:
        with versions.only_writer(uri, "t"):
            order.append("second")

    with versions.only_writer(uri, "t"):
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]
