"""Workflows whose storage is in an object store, and whose runs are on a server: what a team shares."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from components import storage
from components.config import UserError, load
from components.data import store
from components.orchestration.entry import absolute, execute, here, prepared
from components.tracking.registry import registered_source, resolve_registered
from tests.object_store import mlflow_server, s3_server
from workflows import build_labels, promote, report

_ROWS = [
    {"prompt": "What is one and one?", "completion": "Two.", "label": True},
    {"prompt": "What is one and two?", "completion": "Four.", "label": False},
    {"prompt": "What is one and three?", "completion": "Four.", "label": True},
]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An S3 service and an MLflow server; the storage's address."""
    folder = tmp_path_factory.mktemp("server")
    with s3_server("team"), mlflow_server(folder / "artifacts", f"sqlite:///{folder}/mlflow.db") as url:
        patch = pytest.MonkeyPatch()
        patch.setenv("MLFLOW_TRACKING_URI", url)
        yield "s3://team/demo"
        patch.undo()


@pytest.fixture
def move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """A function after which this is another host, as far as its files go."""

    def to(host: str) -> None:
        monkeypatch.setenv(storage.SCRATCH_VARIABLE, str(tmp_path / host))

    to("first")
    yield to


def _run(module, schema, overrides: list[str]) -> dict:
    return execute(module.__name__.rpartition(".")[2], absolute(load(schema, None, overrides)), module.main)


def test_a_step_done_on_one_host_is_done_for_another(team: str, move, tmp_path: Path) -> None:
    file = tmp_path / "labels.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in _ROWS))
    remote = f"{team}/raw/labels.jsonl"
    storage.upload(file, remote)
    overrides = [f"file={remote}", f"storage={team}"]
    first = _run(build_labels, build_labels.BuildLabels, overrides)
    table = first["outputs"]["answers"]
    assert table.startswith(f"{team}/lancedb#") and store.count(table) == len(_ROWS)
    assert not (storage.folder(team) / "lancedb").exists(), "the table itself is in the store"
    move("second")
    assert not storage.folder(team).exists()
    again = _run(build_labels, build_labels.BuildLabels, overrides)
    assert again["run_id"] == first["run_id"] and again["outputs"] == first["outputs"]
    storage.upload(file, remote)  # the same rows, written again: as a file whose time has changed
    file.write_text(json.dumps(_ROWS[0]) + "\n")
    storage.upload(file, remote)
    changed = _run(build_labels, build_labels.BuildLabels, overrides)
    assert changed["run_id"] != first["run_id"]


def test_a_run_folder_and_a_registered_model_reach_other_hosts(team: str, move, tiny_model_dir: Path) -> None:
    model = f"{team}/models/tiny"
    storage.upload(tiny_model_dir, model)
    before = storage.listing(model)
    done = _run(promote, promote.Promote, [f"model={model}", "name=tiny", f"storage={team}"])
    assert done["outputs"]["model"] == model, "what is handed on is the address, not this host's copy"
    assert storage.listing(model) == before, "and what came from the store is not written there again"
    move("second")
    home = storage.folder(team)
    home.mkdir(parents=True)
    assert registered_source(home, "models:/tiny@champion") == model
    copy = Path(resolve_registered(home, "models:/tiny@champion"))
    weights = "model.safetensors"
    assert copy.is_relative_to(home) and (copy / weights).read_bytes() == (tiny_model_dir / weights).read_bytes()
    config = prepared(load(promote.Promote, None, ["model=models:/tiny@champion", f"storage={team}"]))
    assert (Path(config.model) / weights).is_file() and Path(config.model).is_relative_to(home)


def test_a_page_is_written_to_the_store_each_time(team: str, move) -> None:
    def write(title: str) -> str:
        run = _run(promote, promote.Promote, [f"model={team}/models/tiny", "name=tiny", f"storage={team}"])["run_id"]
        done = _run(report, report.Report, [f"runs.promote={run}", f"title={title}", f"storage={team}"])
        assert done["outputs"]["report"] == f"{team}/report.html"
        copy = storage.download(f"{team}/report.html", storage.folder(team) / "copy.html")
        return copy.read_text()

    assert "First page" in write("First page")
    assert "Second page" in write("Second page")
    assert "First page" in write("First page"), "another page has taken the place of the one that was done"


def test_a_yaml_may_lie_in_the_store(team: str, move, tmp_path: Path) -> None:
    page = tmp_path / "config.yaml"
    page.write_text(f"model: {team}/models/tiny\nstorage: {team}\n")
    storage.upload(page, f"{team}/pipeline/demo/configs/step.yaml")
    found = here(f"{team}/pipeline/demo/configs/step.yaml")
    assert load(promote.Promote, found, []).storage == team
    assert here(None) is None and here("a.yaml") == "a.yaml"


def test_an_object_store_without_an_mlflow_server_is_refused(team: str, move, monkeypatch) -> None:
    config = absolute(load(promote.Promote, None, [f"model={team}/models/tiny", f"storage={team}"]))
    for uri in ("", "sqlite:////tmp/mlflow.db", "file:///tmp/mlruns"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        with pytest.raises(UserError, match="needs an MLflow server that every host reaches"):
            execute("promote", config, promote.main)
    assert not storage.folder(team).exists(), "nothing was begun"
