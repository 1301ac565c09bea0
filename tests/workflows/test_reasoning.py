"""Measuring strategies and building traces as workflows, with what the model says scripted."""

import contextlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import workflows.build_preferences as build_preferences
import workflows.evaluate as evaluate
from components.config import UserError, load
from components.data import store
from components.data.generated_tasks import TaskConfig, make_tasks
from components.orchestration.entry import _split
from components.reasoning.measured import read_table
from components.serving import reasoning_exam
from components.serving.reasoning_exam import Reply

GENERATED = TaskConfig(arithmetic=30, stories=30, logic=0)


def test_the_leading_word_chooses_and_without_it_everything_stays_as_it_was():
    assert _split(["reasoning", "c.yaml", "limit=3"], "what") == (set(), "c.yaml", ["what=reasoning", "limit=3"])
    assert _split(["c.yaml", "limit=3"], "what") == (set(), "c.yaml", ["limit=3"])
    assert load(evaluate.Evaluate, None, ["model=m"]).what == "answers"
    with pytest.raises(UserError, match="what"):
        load(evaluate.Evaluate, None, ["model=m", "what=dreams"])


def test_reasoning_is_measured_on_a_model_that_is_served_in_the_step(monkeypatch, make_run, tmp_path):
    from components.orchestration import cluster
    from components.serving import app

    tasks = {task.question: task for task in make_tasks(GENERATED, 1)}

    def ask(name, question):
        task = tasks[question]
        right = name == "vote-8" or task.kind == "story"
        return Reply(f"Answer: {task.answer if right else 'unknown'}", {"vote-8": 80}.get(name, 10), 0.1)

    plan, plans = SimpleNamespace(plain_lineage={"decided_by": {"model": "digest"}}), []
    monkeypatch.setattr(cluster, "ray_session", lambda config, storage: contextlib.nullcontext())
    monkeypatch.setattr(app, "make_plan", lambda **given: plans.append(given) or plan)
    monkeypatch.setattr(app, "serving", lambda plan, host, port: contextlib.nullcontext("http://x"))
    monkeypatch.setattr(reasoning_exam, "asker", lambda url: ask)
    given = ["model=m", "what=reasoning", "seed=1", f"storage={tmp_path}", "reasoning.generated.logic=0"]
    given += ["reasoning.generated.arithmetic=30", "reasoning.generated.stories=30"]
    run = make_run()
    result = evaluate.main(load(evaluate.Evaluate, None, given), run)
    assert [name.name for name in plans[0]["names"]] == ["direct", "cot", "vote-8"]
    assert result.metrics["direct/accuracy"] == 0.5 and result.metrics["vote-8/accuracy"] == 1.0
    assert result.metrics["vote-8/gain"] == 0.5 and result.metrics["direct/tokens"] == 10
    table = read_table(json.loads(Path(result.outputs["table"]).read_text()))
    assert {row.kind for row in table.rows} == {"all", "arithmetic", "story"} and table.model == "digest"
    assert all(Path(result.outputs[name]).is_file() for name in ("answers", "plot"))


def test_a_models_own_solutions_become_tables(monkeypatch, make_run, tmp_path):
    tasks = {task.question: task for task in make_tasks(GENERATED, 2)}
    rounds = []

    def draw(config, run, asked):
        rounds.append(list(asked))
        replies = {}
        for each in asked:
            task = each.task
            assert tasks[task.question] == task
            right = {"text": f"{task.reasoning}\nAnswer: {task.answer}", "finished": True}
            wrong = {"text": "Answer: 0.5", "finished": True}
            solved = task.kind == "story" or len(rounds) > 1
            replies[each.prompt_id] = [wrong, right if solved else wrong]
        return replies

    monkeypatch.setattr(build_preferences, "draw", draw)
    given = ["model=m", "seed=2", f"storage={tmp_path}", "traces.rationalize=true", "traces.test_share=0.25"]
    given += ["traces.generated.logic=0", "traces.generated.arithmetic=30", "traces.generated.stories=30"]
    result = build_preferences.main(load(build_preferences.BuildPreferences, None, given), make_run())
    held_out = [json.loads(line)["question"] for line in Path(result.outputs["held_out"]).read_text().splitlines()]
    assert set(held_out) == {each.task.question for each in rounds[0] if each.split == "test"}
    assert {each.task.kind for each in rounds[1]} == {"arithmetic"} and all(each.split == "train" for each in rounds[1])
    shown = store.read(result.outputs["demonstrations"])
    assert len(shown) == 30 + len(rounds[1]) and result.metrics["traces/rationalized"] == len(rounds[1])
    pairs = store.read(result.outputs["preferences"])
    assert len(pairs) == 30 and all(row["rejected"][0]["content"] == "Answer: 0.5" for row in pairs)
    assert "The answer is" not in json.dumps([row["prompt"] for row in shown]), "no hint stays in a prompt"


def test_traces_beside_another_source_are_refused(make_run, tmp_path):
    config = load(
        build_preferences.BuildPreferences, None, ["model=m", f"storage={tmp_path}", "index=x#y", "traces={}"]
    )
    with pytest.raises(UserError, match="leave out index"):
        build_preferences.main(config, make_run())
