"""How a sweep ends: one MLflow run over its points with a table and a plot, and the best point's outputs."""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from components import storage as place
from components.orchestration.graph import StepConfig, SweepConfig
from components.orchestration.handover import hand_over
from components.orchestration.steps import Setting, Step
from components.orchestration.sweep import Outcome, Point, best_of, comparison, sweep_key, what_failed
from components.orchestration.sweep_figure import sweep_figure
from components.tracking.run import Result, Run, find_result, finish_run, log_params, open_run

_WORKFLOW = "sweep"
logger = logging.getLogger(__name__)


class _Failed(Exception):
    """Ends the comparison's run as failed; its evidence is logged by then."""


def conclude_sweep(
    name: str, step: StepConfig, points: Sequence[Point], ended: Mapping[str, Step], setting: Setting
) -> Step:
    """Compare the points that have ended and return the sweep as a step with the best one's outputs and run.

    Beyond those, the step has the outputs ``sweep`` (a file with the comparison) and ``sweep_run_id``. Its MLflow run
    is the parent of the points' runs; a point that an earlier sweep has done moves under this one.
    """
    sweep = step.sweep
    assert sweep is not None, f"{name} has no sweep"
    outcomes = [_outcome(point, ended[point.name]) for point in points]
    if all(outcome.status == "blocked" for outcome in outcomes):
        return Step("blocked", error=outcomes[0].error)
    failures = what_failed(outcomes, sweep.metric)
    for sentence in failures:
        logger.warning("sweep %s: %s", name, sentence)
    best = best_of(outcomes, sweep)
    fails = best is None or (bool(failures) and sweep.on_failure == "fail")
    address, experiment = setting.shared["storage"], setting.shared["experiment"]
    storage = place.folder(address)
    key = sweep_key(name, sweep, outcomes)
    seconds = sum(outcome.seconds for outcome in outcomes)
    found = None if fails else find_result(storage, experiment, _WORKFLOW, key)
    if found is not None:
        run_id, path = found.run_id, found.result.outputs["comparison"]
    else:
        try:
            parent, title = setting.parent_run, f"{name} sweep"
            with open_run(storage, experiment, _WORKFLOW, key, {}, name=title, parent=parent, address=address) as run:
                path = _log(run, comparison(name, sweep, outcomes), sweep)
                if fails:
                    raise _Failed("; ".join(failures))
                result = hand_over(Result({"comparison": path}), run, address)
                finish_run(run, result, seconds)
                path = result.outputs["comparison"]
                run_id = run.id
        except _Failed as error:
            is_users = all(ended[o.point.name].is_users_error or o.status in ("done", "cached") for o in outcomes)
            return Step("failed", seconds, error=str(error), is_users_error=is_users)
    assert best is not None, "a sweep without a best point has failed"
    chosen = ended[best.point.name]
    own = {"sweep": path, "sweep_run_id": run_id, "log": str(setting.log_of(best.point.name))}
    status = "done" if found is None else "cached"
    return Step(status, seconds, chosen.run_id, {**chosen.outputs, **own}, chosen.metrics)


def _outcome(point: Point, end: Step) -> Outcome:
    return Outcome(point, end.status, end.seconds, end.run_id, end.metrics, end.error)


def _log(run: Run, page: dict[str, Any], sweep: SweepConfig) -> str:
    """Write the comparison to a file and to the run, adopt the points' runs, and return the file's path."""
    path = run.dir / "comparison.json"
    path.write_text(json.dumps(page, indent=2))
    run.log_artifact(path)
    points = page["points"]
    columns = {name: [point[name] for point in points] for name in ("name", "status", "seconds", "run_id", "error")}
    values = {key: [json.dumps(point["values"].get(key)) for point in points] for key in page["keys"]}
    run.log_table({**values, sweep.metric: [point["value"] for point in points], **columns}, "comparison_table.json")
    measured = [(number, point["value"]) for number, point in enumerate(points, 1) if point["value"] is not None]
    for number, value in measured:
        run.log_metrics({f"points/{sweep.metric}": value}, step=number)
    if measured:
        run.log_figure(sweep_figure(page), "comparison.png")
        best = next(point for point in points if point["name"] == page["best"])
        run.log_metrics({f"best/{sweep.metric}": best["value"]})
        log_params(run, {"best": best["name"], **{f"best.{key}": value for key, value in best["values"].items()}})
    log_params(run, {"metric": sweep.metric, "mode": sweep.mode})
    run.log_metrics({"points": len(points), "points_without_value": len(points) - len(measured)})
    run.adopt([point["run_id"] for point in points if point["run_id"]])
    return str(path)
