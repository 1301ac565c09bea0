"""What --help unfolds of a configuration."""

from typing import Annotated

from components.config import Config, Field, Menu
from components.config_help import describe


class Optimizer(Config):
    learning_rate: float = Field(1e-3, gt=0, description="step size")


class _Colour(Config):
    name: str = Field(description="which one")


class _Mixed(_Colour):
    share: float = Field(0.5, description="of the first")


_COLOURS = Menu(lambda: {"mixed": _Mixed, "plain": _Colour})


class _Picture(Config):
    main: Annotated[_Colour, _COLOURS] = Field(_Mixed(name="mixed"), description="in the middle")
    others: list[Annotated[_Colour, _COLOURS]] = Field([], description="around it")
    frames: dict[str, Optimizer] = Field({}, description="by size")
    points: tuple[Optimizer, ...] = Field((), description="in it")


def test_help_unfolds_lists_mappings_and_what_a_menus_entries_have() -> None:
    rows = {(key, default): (kind, text) for key, kind, default, text in describe(_Picture)}
    assert rows["main.name", "'mixed'"] == ("str", "which one")  # of the default, though the class requires it
    assert rows["main.share", "0.5"] == ("float", "with main.name=mixed: of the first")
    assert rows["others[].name", "required"][1] == "which one"
    assert rows["others[].share", "0.5"][1] == "with others[].name=mixed: of the first"
    assert ("frames.<name>.learning_rate", "0.001") in rows and ("points[].learning_rate", "0.001") in rows
    assert rows["points", "()"][0] == "tuple[Optimizer, …]"
    assert not any(text.startswith("with main.name=plain") for _, text in rows.values())
