"""Addresses and their working copies, against a real S3 service."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import fs

from components import storage
from components.config import UserError
from components.data import store
from tests.object_store import s3_server


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with s3_server("team"):
        yield "s3://team"


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(storage.SCRATCH_VARIABLE, str(tmp_path / "scratch"))
    return tmp_path / "scratch"


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_path_in_the_working_copy_and_an_address_name_the_same_thing(scratch: Path) -> None:
    place = storage.normal("s3://team/demo/")
    home = storage.folder(place)
    assert place == "s3://team/demo" and home.is_relative_to(scratch)
    for inner in ("a", "a/b/c.json"):
        assert storage.address(place, home / inner) == f"{place}/{inner}"
        assert storage.local(place, f"{place}/{inner}") == home / inner
    assert storage.address(place, home) == place
    assert storage.address(place, "/elsewhere/x") == "/elsewhere/x"
    assert storage.address("/plain", "/plain/x") == "/plain/x"
    others = {storage.local(place, target) for target in ("s3://team/demo2/a", "s3://other/a", "gs://team/demo/a")}
    assert len(others) == 3 and all(path.is_relative_to(home / "fetched") for path in others)
    assert storage.folder("s3://team/demo") != storage.folder("s3://team/demo2") != storage.folder("gs://team/demo")


def test_files_have_addresses_too_and_other_schemes_are_refused(tmp_path: Path) -> None:
    assert storage.normal(f"file://{tmp_path}/with%20blank") == f"{tmp_path}/with blank"
    assert storage.folder(f"file://{tmp_path}") == tmp_path
    for wrong in ("hdfs://host/x", "abfss://x@y/z", "http://x/y"):
        with pytest.raises(UserError, match="is not supported"):
            storage.normal(wrong)
    with pytest.raises(UserError, match="names no bucket"):
        storage.normal("s3:///x")


def test_a_storage_that_cannot_be_made_is_said_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"storage=.*/file/x is no folder that can be written to: Not a directory"):
        storage.check(f"{tmp_path}/file/x")
    with pytest.raises(UserError, match="File exists"):
        storage.check(f"{tmp_path}/file")
    storage.check(f"{tmp_path}/new/folder")
    assert (tmp_path / "new" / "folder").is_dir() and not any((tmp_path / "new" / "folder").iterdir())
    with pytest.raises(UserError, match="no folder that can be written to"):
        storage.check("/proc/self")  # it is there, and takes no file


def test_a_folder_comes_back_as_it_went(bucket: str, scratch: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "deep" / "er").mkdir(parents=True)
    (source / "deep" / "er" / "weights.bin").write_bytes(bytes(range(256)) * 1000)
    (source / "config.json").write_text("{}")
    target = f"{bucket}/one/model"
    storage.upload(source, target)
    assert _tree(storage.download(target, scratch / "copy")) == _tree(source)
    assert storage.exists(target) and storage.exists(f"{target}/config.json") and not storage.exists(f"{target}/none")
    (source / "config.json").unlink()
    (source / "other.json").write_text("[]")
    storage.upload(source, target)
    assert set(storage.listing(target)) == {"deep/er/weights.bin", "other.json"}, "what was there before is gone"
    assert _tree(storage.download(target, scratch / "copy")) == _tree(source), "a changed one is fetched again"
    storage.remove(target)
    assert not storage.exists(target)
    with pytest.raises(UserError, match="there is nothing at"):
        storage.download(target, scratch / "copy")
    assert _tree(scratch / "copy") == _tree(source), "what is here already is kept"


def test_a_copying_that_breaks_off_leaves_what_was_there(
    bucket: str, scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's checkpoints go when its model comes: a kill in between must leave one of them."""
    source, target = tmp_path / "source", f"{bucket}/cut/run"
    (source / "checkpoints").mkdir(parents=True)
    (source / "checkpoints" / "state.bin").write_text("step 20")
    storage.upload(source, target)
    (source / "checkpoints" / "state.bin").unlink()
    (source / "model.bin").write_text("weights")

    def cut_off(*_: object, **__: object) -> None:
        raise OSError("the host is gone")

    with monkeypatch.context() as patch:
        patch.setattr(fs, "copy_files", cut_off)
        with pytest.raises(OSError, match="the host is gone"):
            storage.upload(source, target)
    assert set(storage.listing(target)) == {"checkpoints/state.bin"}
    storage.upload(source, target)
    assert set(storage.listing(target)) == {"model.bin"}


def test_an_unchanged_copy_is_not_fetched_again(bucket: str, scratch: Path, tmp_path: Path) -> None:
    source = tmp_path / "page.json"
    source.write_text("1")
    storage.upload(source, f"{bucket}/two/page.json")
    copy = storage.download(f"{bucket}/two/page.json", scratch / "page.json")
    copy.write_text("mine")
    assert storage.download(f"{bucket}/two/page.json", copy).read_text() == "mine"
    source.write_text("22")
    storage.upload(source, f"{bucket}/two/page.json")
    assert storage.download(f"{bucket}/two/page.json", copy).read_text() == "22"


def test_a_bucket_that_is_not_there_is_refused_before_anything_starts(bucket: str, scratch: Path) -> None:
    storage.check(f"{bucket}/three")
    assert storage.listing(f"{bucket}/three") == {}, "the probe is gone"
    with pytest.raises(UserError, match="cannot write to s3://no-such-bucket/x: check the bucket and the credentials"):
        storage.check("s3://no-such-bucket/x")


def test_a_scratch_folder_that_cannot_be_made_is_said_in_one_sentence(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(storage.SCRATCH_VARIABLE, f"{tmp_path}/file")
    with pytest.raises(UserError, match=r"s3://team/three is worked on \(RAYLIGN_SCRATCH\), is no folder that"):
        storage.check(f"{bucket}/three")


def test_tables_live_in_the_store_and_two_writers_lose_no_row(bucket: str, scratch: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("by", pa.int64())])
    uri = f"{bucket}/four/lancedb"
    assert not store.exists(f"{uri}#pairs")
    first = store.write(uri, "pairs", [{"id": "start", "by": 0}], schema=schema, key="id")
    assert first == f"{uri}#pairs@2" or first.startswith(f"{uri}#pairs@")

    def add(writer: int) -> None:
        for number in range(4):
            store.write(uri, "pairs", [{"id": f"{writer}-{number}", "by": writer}], schema=schema, key="id")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(add, (1, 2)))
    rows = store.read(f"{uri}#pairs")
    assert sorted(row["id"] for row in rows) == sorted(["start", *(f"{w}-{n}" for w in (1, 2) for n in range(4))])
    assert [row["id"] for row in store.read(first)] == ["start"], "an older version stays as it was"


def test_changes_of_one_table_in_the_store_take_turns(bucket: str, scratch: Path) -> None:
    """By itself LanceDB inserts a new key twice, and refuses the second of two overwritings."""
    schema = pa.schema([("id", pa.string()), ("by", pa.int64())])
    uri = f"{bucket}/five/lancedb"

    def change(writer: int) -> list[str]:
        for number in range(3):
            store.write(uri, "pairs", [{"id": f"{number}", "by": writer}], schema=schema, key="id")
        rows = [{"id": f"{writer}-{number}", "by": writer} for number in range(3)]
        return [store.overwrite(uri, "other", [row], schema) for row in rows]

    with ThreadPoolExecutor(3) as pool:
        made = [ref for refs in pool.map(change, range(3)) for ref in refs]
    assert sorted(row["id"] for row in store.read(f"{uri}#pairs")) == ["0", "1", "2"]
    assert len(set(made)) == 9 and len({store.read(ref)[0]["id"] for ref in made}) == 9, "each a version of its own"
    assert any(storage.folder(uri).iterdir()), "the locks are on this host"


def test_what_lancedb_is_told_of_a_service() -> None:
    assert storage.table_options("/folder", {"AWS_ENDPOINT_URL": "http://h:1"}) is None
    assert storage.table_options("s3://b/x", {}) is None
    plain = storage.table_options("s3://b/x", {"AWS_ENDPOINT_URL": "http://h:1", "AWS_REGION": "eu-west-1"})
    assert plain == {"aws_endpoint": "http://h:1", "aws_region": "eu-west-1", "allow_http": "true"}
    assert "allow_http" not in storage.table_options("s3://b/x", {"AWS_ENDPOINT_URL_S3": "https://h"})
