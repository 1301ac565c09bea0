"""A pipeline's summary lies in its own folder and, until another ends, in the storage; whether or not a step ran."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.config import UserError
from components.orchestration.steps import Step
from components.orchestration.summary import conclude


def test_it_is_written_though_no_step_ran(tmp_path: Path) -> None:
    logged = []
    run = SimpleNamespace(log_artifact=logged.append)
    score = {"score": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 9}}
    steps = {"page": Step("cached", run_id="r", outputs={"report": "page.html", "score": score})}
    own = tmp_path / "pipeline" / "demo"
    result = conclude(run, tmp_path, own, steps, {"base": "<page.score>"}, 2.0, 3)
    pages = [json.loads((folder / "summary.json").read_text()) for folder in (own, tmp_path)]
    assert pages[0] == pages[1] and pages[0]["evaluation"] == {"base": score}
    assert pages[0]["steps"] == {"page": {"status": "cached", "seconds": 0.0, "run_id": "r"}}
    assert logged == [own / "summary.json"] and result.outputs["summary"] == str(own / "summary.json")
    assert result.metrics == {"steps": 1, "steps_cached": 1, "seconds": 2.0}
    assert sorted(path.name for path in own.iterdir()) == ["summary.json"]


def test_a_step_whose_input_was_wrong_is_the_users_to_know(tmp_path: Path) -> None:
    run = SimpleNamespace(log_artifact=lambda path: None)
    steps = {"page": Step("failed", error="there is no table", is_users_error=True), "next": Step("blocked")}
    with pytest.raises(UserError, match="step page: there is no table"):
        conclude(run, tmp_path, tmp_path / "own", steps, {"base": "<page.score>"}, 2.0, 3)
    assert json.loads((tmp_path / "summary.json").read_text())["evaluation"] == {}
