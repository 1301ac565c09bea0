"""Lineage pages embed their parents' and cannot be edited unnoticed."""

import json
from pathlib import Path

import pytest

from components.config import UserError
from components.tracking.lineage import read_lineage, write_lineage


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_page_embeds_its_parents(make_run, tmp_path: Path) -> None:
    run, base, model = make_run(), _folder(tmp_path / "base"), _folder(tmp_path / "model")
    base_id = write_lineage(base, kind="adapter", run=run, parents=["package:x"], facts={"rank": 8})
    write_lineage(model, kind="model", run=run, parents=[base], facts={})
    page = read_lineage(model)
    assert page is not None
    assert page["parents"][0]["lineage_id"] == base_id
    assert page["parents"][0]["parents"] == [{"reference": "package:x"}]
    assert page["run_id"] == run.id


def test_the_id_depends_on_every_fact(make_run, tmp_path: Path) -> None:
    run, folder = make_run(), _folder(tmp_path / "a")
    first = write_lineage(folder, kind="model", run=run, parents=[], facts={"version": 1})
    assert write_lineage(folder, kind="model", run=run, parents=[], facts={"version": 2}) != first
    assert write_lineage(folder, kind="model", run=run, parents=[], facts={"version": 1}) == first


def test_an_edited_page_is_refused(make_run, tmp_path: Path) -> None:
    folder = _folder(tmp_path / "a")
    write_lineage(folder, kind="model", run=make_run(), parents=[], facts={"rows": 10})
    page = json.loads((folder / "lineage.json").read_text())
    page["facts"]["rows"] = 11
    (folder / "lineage.json").write_text(json.dumps(page))
    with pytest.raises(UserError, match="was edited"):
        read_lineage(folder)


def test_a_folder_without_a_page_has_none(tmp_path: Path) -> None:
    assert read_lineage(tmp_path) is None
