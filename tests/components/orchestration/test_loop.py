"""Loops unrolled into the steps of their rounds: what each round gets, what follows gets, what is refused."""

from pathlib import Path

import pytest
import yaml

from components.config import UserError
from components.orchestration.graph import LoopConfig, StepConfig, order
from components.orchestration.loop import unroll
from components.orchestration.schedule import check_steps, describe_steps
from components.orchestration.sweep import expand
from workflows.pipeline import schema_of


def _step(*after: str, **config: object) -> StepConfig:
    return StepConfig(workflow="w", config=config, after=list(after))


def _loop(**changes: object) -> LoopConfig:
    parts: dict = {
        "rounds": 3,
        "start": {"policy": "<sft.model>", "pairs": None},
        "carry": {"policy": "<merge.model>", "pairs": "<sample.table>"},
        "steps": {
            "sample": _step(model="<loop.policy>", onto="<loop.pairs>", round="<loop.round>", table="<data.table>"),
            "train": _step(model="<loop.policy>", table="<sample.table>", where="round = <loop.round>"),
            "merge": _step("train", adapter="<train.adapter>"),
        },
    }
    return LoopConfig(**(parts | changes))


OUTSIDE = {"data": _step(), "sft": _step()}


def test_each_round_goes_on_from_what_the_one_before_left() -> None:
    whole = unroll(OUTSIDE, {"online": _loop()})
    assert {name: step.config for name, step in whole.steps.items() if name not in OUTSIDE} == {
        "sample-1": {"model": "<sft.model>", "onto": None, "round": 1, "table": "<data.table>"},
        "train-1": {"model": "<sft.model>", "table": "<sample-1.table>", "where": "round = 1"},
        "merge-1": {"adapter": "<train-1.adapter>"},
        "sample-2": {"model": "<merge-1.model>", "onto": "<sample-1.table>", "round": 2, "table": "<data.table>"},
        "train-2": {"model": "<merge-1.model>", "table": "<sample-2.table>", "where": "round = 2"},
        "merge-2": {"adapter": "<train-2.adapter>"},
        "sample-3": {"model": "<merge-2.model>", "onto": "<sample-2.table>", "round": 3, "table": "<data.table>"},
        "train-3": {"model": "<merge-2.model>", "table": "<sample-3.table>", "where": "round = 3"},
        "merge-3": {"adapter": "<train-3.adapter>"},
    }
    assert [whole.steps[f"merge-{number}"].after for number in (1, 2, 3)] == [["train-1"], ["train-2"], ["train-3"]]
    ordered = [name for name in order(whole.steps) if name not in OUTSIDE]
    assert ordered == [f"{name}-{number}" for number in (1, 2, 3) for name in ("sample", "train", "merge")]
    assert whole.origins["train-2"].where == "loops.online.steps.train" and whole.origins["train-2"].round == 2


def test_more_rounds_leave_the_first_ones_as_they_were() -> None:
    two, three = (unroll(OUTSIDE, {"online": _loop(rounds=rounds)}).steps for rounds in (2, 3))
    assert two.items() <= three.items() and len(three) == len(two) + 3


def test_what_follows_gets_what_the_last_round_left() -> None:
    steps = {
        **OUTSIDE,
        "evaluate": _step(model="<online.policy>", run="<train.run_id>", first="<merge-1.model>", base="<sft.model>"),
        "report": _step("online", runs=["<online.pairs>"]),
        "other": _step("train"),
    }
    whole = unroll(steps, {"online": _loop()})
    assert whole.steps["evaluate"].config == {
        "model": "<merge-3.model>",
        "run": "<train-3.run_id>",
        "first": "<merge-1.model>",
        "base": "<sft.model>",
    }
    assert whole.steps["report"].config == {"runs": ["<sample-3.table>"]}
    assert whole.steps["report"].after == ["sample-3", "train-3", "merge-3"]
    assert whole.steps["other"].after == ["train-3"]
    assert whole.lead({"last": "<train.evaluation>"}, "evaluations") == {"last": "<train-3.evaluation>"}
    assert order(whole.steps)["evaluate"] == {"merge-3", "train-3", "merge-1", "sft"}


def test_one_loop_may_start_from_another() -> None:
    second = LoopConfig(
        rounds=2,
        start={"model": "<online.policy>", "kept": "<online.pairs>"},
        carry={"model": "<tune.model>", "kept": "<loop.kept>"},
        steps={"tune": _step(model="<loop.model>", kept="<loop.kept>")},
    )
    steps = {**OUTSIDE, "after": _step(kept="<more.kept>", model="<more.model>")}
    whole = unroll(steps, {"more": second, "online": _loop()})
    assert whole.steps["tune-1"].config == {"model": "<merge-3.model>", "kept": "<sample-3.table>"}
    assert whole.steps["tune-2"].config == {"model": "<tune-1.model>", "kept": "<sample-3.table>"}
    assert whole.steps["after"].config == {"kept": "<sample-3.table>", "model": "<tune-2.model>"}
    order(whole.steps)


def test_a_step_of_a_round_may_be_a_sweep() -> None:
    sweep = {"grid": {"x": [1, 2]}, "points": [{"model": "<loop.policy>"}], "metric": "m", "mode": "max"}
    swept = StepConfig(workflow="w", config={"model": "<loop.policy>"}, sweep=sweep)
    loop = _loop(rounds=2, steps={"train": swept}, start={"policy": "a"}, carry={"policy": "<train.model>"})
    every, sweeps = expand(unroll({}, {"online": loop}).steps)
    assert [point.name for point in sweeps["train-2"]] == ["train-2-1", "train-2-2", "train-2-3"]
    assert every["train-2-1"].config == {"model": "<train-1.model>", "x": 1}
    assert every["train-2-3"].config == {"model": "<train-1.model>"}
    assert every["train-1-3"].config == {"model": "a"}


def test_without_loops_nothing_changes() -> None:
    steps = {"a": _step(x="<b.out>"), "b": _step("c"), "c": _step(y="<no reference")}
    whole = unroll(steps, {})
    assert whole.steps == steps and whole.origins == {}
    assert whole.lead({"e": "<a.evaluation>"}, "evaluations") == {"e": "<a.evaluation>"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"carry": {"policy": "<merge.model>"}}, r"loops.online.start has 'pairs', and loops.online.carry has not"),
        ({"start": {"policy": "<sft.model>"}}, r"loops.online.carry has 'pairs', and loops.online.start has not"),
        ({"start": {"policy": "<merge.model>", "pairs": None}}, "loops.online.start: 'merge' is of the loop itself"),
        ({"start": {"policy": "<online.policy>", "pairs": None}}, "loops.online.start: 'online' is of the loop"),
        ({"start": {"round": 1}, "carry": {"round": 2}}, "<loop.round> is the round's number"),
        (
            {"steps": {"merge": _step(model=["<loop.polcy>"]), "sample": _step()}},
            r"online.steps.merge.config.model: <loop.polcy> is not handed on: there are <loop.round>, <loop.policy>",
        ),
        (
            {"steps": {"merge": _step(path="models/<loop.policy>"), "sample": _step()}},
            "<loop.policy> may not stand within a longer text",
        ),
        ({"carry": {"policy": "<merge.model>", "pairs": "<loop.pears>"}}, r"loops.online.carry.pairs: <loop.pears>"),
        ({"steps": {"data": _step()}}, "loops.online.steps.data has the name of steps.data"),
        ({"steps": {"online": _step()}}, "loops.online.steps.online has the name of loops.online"),
        ({"steps": {"loop": _step()}}, "loops.online.steps.loop has the name of <loop"),
    ],
)
def test_a_wrong_loop_is_refused_by_its_key(changes: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        unroll(OUTSIDE, {"online": _loop(**changes)})


def test_nothing_to_do_is_refused() -> None:
    with pytest.raises(UserError, match="the pipeline has no steps"):
        unroll({}, {})


def test_names_may_not_be_taken_twice() -> None:
    with pytest.raises(UserError, match="'sample-2' has the name of a round"):
        unroll({**OUTSIDE, "sample-2": _step()}, {"online": _loop()})
    with pytest.raises(UserError, match=r"steps\.loop: .* rename the step"):
        unroll({**OUTSIDE, "loop": _step()}, {"online": _loop()})
    with pytest.raises(UserError, match=r"loops\.more\.steps\.train has the name of loops\.online\.steps\.train"):
        unroll(OUTSIDE, {"online": _loop(), "more": _loop(start={}, carry={}, steps={"train": _step()})})


def test_a_name_that_a_loop_does_not_hand_on_is_refused_where_it_stands() -> None:
    with pytest.raises(UserError, match=r"steps\.evaluate\.config\.model: <online.model>: .* hands on policy, pairs"):
        unroll({**OUTSIDE, "evaluate": _step(model="<online.model>")}, {"online": _loop()})
    with pytest.raises(UserError, match=r"evaluations\.last: <online\.x>"):
        unroll(OUTSIDE, {"online": _loop()}).lead({"last": "<online.x>"}, "evaluations")


def test_a_typing_error_within_a_loop_is_a_step_that_is_not_there() -> None:
    loop = _loop(steps={"merge": _step(model="<smaple.table>"), "sample": _step()})
    with pytest.raises(UserError, match="step 'merge-1' waits for 'smaple'"):
        order(unroll(OUTSIDE, {"online": loop}).steps)


def _reports(**config: object) -> LoopConfig:
    step = StepConfig(workflow="report", config={"runs": {"before": "<loop.run>"}, **config})
    return LoopConfig(rounds=2, start={"run": "abc"}, carry={"run": "<page.run_id>"}, steps={"page": step})


def test_a_wrong_key_is_named_as_it_stands_in_the_yaml() -> None:
    whole = unroll({}, {"pages": _reports(titel="x")})
    with pytest.raises(UserError, match=r"unknown key 'loops\.pages\.steps\.page\.config\.titel'.*'title'"):
        check_steps(whole.steps, schema_of, whole.origins)


def test_the_plan_shows_the_rounds() -> None:
    whole = unroll({}, {"pages": _reports()})
    assert describe_steps(whole.steps, schema_of, whole.origins) == {
        "page-1": "after nothing; round 1 of 2 of pages",
        "page-2": "after page-1; round 2 of 2 of pages",
    }


def test_the_steps_before_the_online_loop_are_the_demos() -> None:
    """Else the demo's storage would not spare them, as the file promises."""
    shipped = Path(__file__).resolve().parents[3] / "workflows/configs/pipeline"
    demo, online = (yaml.safe_load((shipped / f"{name}.yaml").read_text())["steps"] for name in ("demo", "online_dpo"))
    before = ["build_index", "build_preferences", "train_sft", "merge_sft", "evaluate_sft"]
    assert [name for name in online if name != "report"] == before
    assert all(online[name] == demo[name] for name in before)
