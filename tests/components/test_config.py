"""Configuration: precedence, types, and errors that name the key and the fix."""

from pathlib import Path
from typing import Literal

import pytest

from components.config import Config, Field, UserError, WorkflowConfig, check, load, parse


class Optimizer(Config):
    learning_rate: float = Field(1e-3, gt=0, description="step size")
    name: Literal["adamw", "sgd"] = Field("adamw", description="which")


class Toy(WorkflowConfig):
    steps: int = Field(description="how many")
    optimizer: Optimizer = Field(Optimizer(), description="how")


def _write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


def test_command_line_wins_over_yaml_and_yaml_over_defaults(tmp_path: Path) -> None:
    file = _write(tmp_path / "a.yaml", "steps: 3\noptimizer: {learning_rate: 5e-7, name: sgd}\n")
    config = load(Toy, file, ["optimizer.name=adamw"])
    assert (config.steps, config.optimizer.learning_rate, config.optimizer.name) == (3, 5e-7, "adamw")
    assert config.storage == "artifacts"


def test_a_number_in_scientific_notation_is_a_number() -> None:
    assert load(Toy, None, ["steps=1", "optimizer.learning_rate=2e-5"]).optimizer.learning_rate == 2e-5


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["steps=1", "optimizer.learning_rat=1"],
            "'optimizer.learning_rat': did you mean 'learning_rate'?",
        ),
        (["optimizer.name=sgd"], "the key 'steps' is required"),
        (["steps=abc"], "'steps' got 'abc'"),
        (["steps=1", "optimizer.learning_rate=-1"], "should be greater than 0"),
        (["steps=1", "optimizer.name=adam"], "'adamw' or 'sgd'"),
        (["steps"], "'steps' is not an override"),
        (["steps=${nowhere}"], "nowhere"),
    ],
)
def test_errors_name_the_key_and_the_fix(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load(Toy, None, overrides)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [1\n", "steps: {{\n"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError):
        load(Toy, _write(tmp_path / "bad.yaml", text), [])


def test_every_wrong_key_is_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        parse(Toy, {"stepz": 1, "optimizer": {"learning_rate": "x"}})
    assert "stepz" in str(caught.value)
    assert "optimizer.learning_rate" in str(caught.value)


def test_check_tolerates_only_what_is_pending() -> None:
    pending = {"steps": "<a.b>"}
    check(Toy, pending, "", lambda value: value == "<a.b>")
    with pytest.raises(UserError, match=r"unknown key 'at\.stepz'"):
        check(Toy, {**pending, "stepz": 1}, "at.", lambda value: value == "<a.b>")


def test_a_configuration_is_frozen() -> None:
    config = load(Toy, None, ["steps=1"])
    with pytest.raises(ValueError, match="frozen"):
        config.steps = 2


class _Many(Config):
    frames: dict[str, Optimizer] = Field({}, description="by size")
    points: tuple[Optimizer, ...] = Field((), description="in it")


@pytest.mark.parametrize("key", ["points", "frames"])
def test_a_mistyped_key_in_a_list_or_a_mapping_gets_the_nearest_one(key: str) -> None:
    values = [{"learning_rat": 1}] if key == "points" else {"big": {"learning_rat": 1}}
    with pytest.raises(UserError, match="did you mean 'learning_rate'"):
        parse(_Many, {key: values})
