"""Registered models in a real MLflow store: versions, aliases that move, references that are pinned."""

import json
import uuid
from pathlib import Path

import pytest

from components.config import UserError
from components.tracking.lineage import write_lineage
from components.tracking.registry import pin_registered, register_model, registered_source, resolve_registered


def test_registering_is_idempotent_and_an_alias_moves(make_run, mlflow_storage: Path, tmp_path: Path) -> None:
    run, name = make_run(), f"model-{uuid.uuid4().hex[:8]}"
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    assert register_model(run, name, folders[0], "champion", {"a": "b"}) == "1"
    assert register_model(run, name, folders[0], "champion", {}) == "1"
    assert resolve_registered(mlflow_storage, f"models:/{name}@champion") == str(folders[0])
    assert register_model(run, name, folders[1], "champion", {}) == "2"
    other = f"{name}-changed"  # the same folder with other bytes in it is another version
    assert [register_model(run, other, folders[0], "champion", {"digest": d}) for d in "aaba"] == ["1", "1", "2", "1"]
    assert resolve_registered(mlflow_storage, f"models:/{name}@champion") == str(folders[1])
    assert resolve_registered(mlflow_storage, f"models:/{name}/1") == str(folders[0])
    pinned = pin_registered(mlflow_storage, f"models:/{name}@champion")
    assert pinned == f"models:/{name}/2@champion" and pin_registered(mlflow_storage, pinned) == pinned
    register_model(run, name, folders[0], "champion", {})
    assert resolve_registered(mlflow_storage, pinned) == str(folders[1])
    for other in (f"models:/{name}/1", "/a/folder@x", "runs:/id/adapter"):
        assert pin_registered(mlflow_storage, other) == other


def test_a_path_may_have_blanks_and_accents(make_run, mlflow_storage: Path, tmp_path: Path) -> None:
    run, name, folder = make_run(), f"model-{uuid.uuid4().hex[:8]}", tmp_path / "José's models" / "50% + ü"
    folder.mkdir(parents=True)
    register_model(run, name, folder, "champion", {})
    assert resolve_registered(mlflow_storage, f"models:/{name}@champion") == str(folder)
    assert registered_source(mlflow_storage, f"models:/{name}/1") == str(folder)


def test_an_adapter_in_a_runs_artefacts_is_found_by_the_run(make_run, mlflow_storage: Path, tmp_path: Path) -> None:
    run, adapter = make_run(), tmp_path / "adapter"
    adapter.mkdir()
    write_lineage(adapter, kind="adapter", run=run, parents=[], facts={})
    (adapter / "adapter_config.json").write_text("{}")
    run.log_artifact(adapter)
    found = Path(resolve_registered(mlflow_storage, f"runs:/{run.id}/adapter"))
    assert sorted(path.name for path in found.iterdir()) == ["adapter_config.json", "lineage.json"]
    page = Path(resolve_registered(mlflow_storage, f"runs:/{run.id}/lineage.json"))
    assert json.loads(page.read_text())["run_id"] == run.id


def test_an_unknown_registered_model_is_a_users_error(mlflow_storage: Path) -> None:
    with pytest.raises(UserError, match="models:/none@champion"):
        resolve_registered(mlflow_storage, "models:/none@champion")
    with pytest.raises(UserError, match="models:/none@champion"):
        pin_registered(mlflow_storage, "models:/none@champion")
