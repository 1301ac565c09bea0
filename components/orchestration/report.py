"""One self-contained HTML page over a pipeline: what ran, what it changed, and the evidence."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.orchestration.figures import Curve, as_svg, curve_grid, evaluation_bars
from components.orchestration.page import render
from components.orchestration.summary import Evaluation, show
from components.orchestration.sweep_figure import sweep_figure

# Curve of the run → the panel that it is drawn in: what a person looks at first in a training run.
_PANELS = {
    "train/loss": "loss",
    "eval/loss": "loss",
    "train/grad_norm": "gradient norm",
    "train/learning_rate": "learning rate",
    "rewards/accuracies": "reward accuracy",
    "rewards/margins": "reward margin",
    "rewards/chosen": "rewards",
    "rewards/rejected": "rewards",
    "objective/reward": "reward of an answer",
    "eval/held_out_reward": "held-out answers, as judged",
    "objective/kl": "KL to the reference, nats an answer",
    "objective/kl_target": "KL to the reference, nats an answer",
    "objective/entropy": "entropy, nats a token",
    "policy/clipfrac": "share of tokens clipped",
    "value/explained_variance": "variance that the critic explains",
}


def write_report(
    path: Path,
    *,
    title: str,
    steps: Sequence[Mapping[str, Any]],
    evaluations: Mapping[str, Evaluation],
    curves: Mapping[str, Mapping[str, Curve]],
    figures: Mapping[str, Mapping[str, float]],
    transcript: Sequence[Mapping[str, Any]],
    lineage: Mapping[str, Any] | None,
    sweeps: Mapping[str, Mapping[str, Any]] | None = None,
    answers: Mapping[str, Sequence[Mapping[str, Any]]] | None = None,
) -> None:
    """Write the page.

    Args:
        steps: one mapping a step: name, workflow, status, seconds, run_id.
        evaluations: model → metric → mean, low, high, n.
        curves: training run's title → metric → points.
        figures: section title → name → figure, as tables.
        transcript: what was asked of the served model and what came back.
        lineage: the lineage page of the model that is served.
        sweeps: section title → what ``sweep.comparison`` returns.
        answers: section title → what ``first_and_last`` returns.
    """
    metrics = list(dict.fromkeys(metric for evaluation in evaluations.values() for metric in evaluation))
    page = render(
        "report.html.jinja",
        title=title,
        steps=steps,
        metrics=metrics,
        evaluations={
            name: [show(evaluation.get(metric)) for metric in metrics] for name, evaluation in evaluations.items()
        },
        sizes={metric: _sample_sizes(evaluations, metric) for metric in metrics},
        bars=evaluation_bars(evaluations) if evaluations else "",
        curves={name: curve_grid(_panels(found)) for name, found in curves.items() if _panels(found)},
        figures=figures,
        sweeps={title: {**page, "plot": as_svg(sweep_figure(page))} for title, page in (sweeps or {}).items()},
        answers=answers or {},
        transcript=transcript,
        lineage=_flatten(lineage) if lineage else [],
        lineage_json=json.dumps(lineage, indent=2) if lineage else "",
    )
    path.write_text(page)


def first_and_last(samples: Path) -> list[dict[str, Any]]:
    """Return, for each question of a training's samples (JSON lines), what its first and its last look showed.

    A person sees there whether a reward that rose was earned or gamed.
    """
    lines = [json.loads(line) for line in samples.read_text().split("\n") if line]
    iterations = [line["iteration"] for line in lines]
    looks = {min(iterations), max(iterations)} if iterations else set()
    shown = [line for line in lines if line["iteration"] in looks]
    # Two prompts may ask the same over other passages; without held-out prompts, each look is at others.
    asked: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for line in shown:
        asked.setdefault((line["place"], line["question"]), []).append(line)
    return [{"question": question, "looks": found} for (_, question), found in asked.items()]


def _panels(curves: Mapping[str, Curve]) -> dict[str, dict[str, Curve]]:
    panels: dict[str, dict[str, Curve]] = {}
    for metric, panel in _PANELS.items():
        if metric in curves:
            panels.setdefault(panel, {})[metric] = curves[metric]
    return panels


def _sample_sizes(evaluations: Mapping[str, Evaluation], metric: str) -> str:
    """Return how many questions a column's means are over: one number, as a rule, as all models are asked the same."""
    asked = {int(evaluation[metric]["n"]) for evaluation in evaluations.values() if metric in evaluation}
    return ", ".join(map(str, sorted(asked)))


def _flatten(page: Mapping[str, Any], depth: int = 0) -> list[dict[str, Any]]:
    """Return the chain of lineage pages as rows, the served artefact first."""
    if "reference" in page:
        return [{"depth": depth, "kind": "reference", "id": page["reference"], "facts": {}}]
    row = {
        "depth": depth,
        "kind": page["kind"],
        "id": page["lineage_id"][:16],
        "run_id": page["run_id"],
        "commit": page["commit"][:12],
        "facts": page["facts"],
    }
    return [row, *(line for parent in page["parents"] for line in _flatten(parent, depth + 1))]
