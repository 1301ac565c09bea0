"""Menus of files: what is on them, and what a wrong choice says."""

import pytest

from components.config import UserError
from components.data import menu
from components.data.sources.folder import Folder

FOLDER = "components.data.sources"


def test_files_are_the_menu_and_private_ones_are_not() -> None:
    assert menu.names(FOLDER) == ["csv", "folder", "git", "jsonl", "python_docs", "urls"]


@pytest.mark.parametrize("name", menu.names(FOLDER))
def test_every_entry_has_what_the_menu_promises(name: str) -> None:
    module = menu.module(FOLDER, name)
    assert callable(menu.entry(FOLDER, name)) and callable(module.read)
    assert getattr(module, name.title().replace("_", "")).model_fields["name"].annotation.__args__ == (name,)


def test_a_section_becomes_the_config_that_its_name_chooses() -> None:
    assert menu.chosen(FOLDER, {"name": "folder", "path": "x"}, "source") == Folder(name="folder", path="x")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"name": "foldr"}, "no 'foldr'.*csv, folder, git, jsonl, python_docs, urls"),
        ({"path": "x"}, "'source' needs a name"),
        ("folder", "'source' needs a name"),
        ({"name": "folder", "pth": "x", "path": "y"}, "unknown key 'source.pth': did you mean 'path'"),
        ({"name": "folder"}, "'source.path' is required"),
    ],
)
def test_a_wrong_choice_says_what_to_write(values: object, says: str) -> None:
    with pytest.raises(UserError, match=says):
        menu.chosen(FOLDER, values, "source")
