"""A pipeline's graph: order, references, refusals."""

import pytest

from components.config import UserError
from components.orchestration.graph import StepConfig, fill, order


def _step(*after: str, **config: object) -> StepConfig:
    return StepConfig(workflow="w", config=config, after=list(after))


def test_a_reference_makes_a_step_wait() -> None:
    steps = {"b": _step(x={"deep": ["<a.out>"]}), "a": _step(), "c": _step("b")}
    waits = order(steps)
    assert waits == {"a": set(), "b": {"a"}, "c": {"b"}}
    assert list(waits) == ["a", "b", "c"]


def test_fill_puts_whole_values_in_place() -> None:
    outputs = {"a": {"out": {"mean": 1.0}}}
    assert fill({"x": ["<a.out>", "a < b"], "y": 3}, outputs) == {"x": [{"mean": 1.0}, "a < b"], "y": 3}


def test_a_circle_is_named() -> None:
    with pytest.raises(UserError, match="circle"):
        order({"a": _step("b"), "b": _step("a")})


def test_an_unknown_step_is_named() -> None:
    with pytest.raises(UserError, match="'a' waits for 'z': there are a"):
        order({"a": _step("z")})


def test_an_unknown_output_names_what_there_is() -> None:
    with pytest.raises(UserError, match="returns model, run_id"):
        fill("<a.modle>", {"a": {"model": 1, "run_id": 2}})
