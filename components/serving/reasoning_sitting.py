"""Serves the contenders of a reasoning measurement, has them asked, and keeps what came out."""

from typing import Any

from components.serving import app, reasoning_exam
from components.serving.reasoning_figure import accuracy_figure
from components.tracking.run import Result, Run


def sit(task: reasoning_exam.ReasoningTask, model: str, storage: str, run: Run, *, name: str, seed: int) -> Result:
    """Measure the strategies on a model, on the Ray cluster that is connected.

    Outputs: ``strategies`` (the figures of each contender), ``table`` (what ``auto`` chooses from), ``answers`` (every
    reply and its grade) and ``plot`` (accuracy over tokens).

    Raises:
        UserError: a contender lacks what its strategy needs, or there are no questions.
    """
    tasks, names = reasoning_exam.questions(task, seed), task.names()
    plan = app.make_plan(
        model=model, names=names, engine=task.engine, storage=storage, embedder=task.embedder, scorer=task.scorer
    )
    asked = [served.name for served in names]
    with app.serving(plan, "127.0.0.1", 0) as url:
        graded = reasoning_exam.measure(tasks, asked, reasoning_exam.asker(url), task.users)
    digest = plan.plain_lineage["decided_by"]["model"]
    table = reasoning_exam.table_of(graded, task.contenders, model=digest, seed=seed)
    return keep(graded, table, asked, run, name=name, seed=seed)


def keep(
    graded: list[reasoning_exam.Graded], table: dict[str, Any], asked: list[str], run: Run, *, name: str, seed: int
) -> Result:
    """Write answers, table and plot into the run; return its result."""
    outputs: dict[str, Any] = {"name": name}
    for what, path in reasoning_exam.write_results(run.dir, graded, table).items():
        outputs[what] = str(path)
    outputs["plot"] = str(run.dir / "accuracy_per_token.png")
    accuracy_figure(table).savefig(outputs["plot"], dpi=150)
    for what in ("answers", "table", "plot"):
        run.log_artifact(outputs[what])
    found = outputs["strategies"] = reasoning_exam.evaluation(graded, asked, seed)
    return Result(outputs, reasoning_exam.metrics(found))
