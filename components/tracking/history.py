"""What the MLflow store tells of runs that were: their state and their curves."""

from pathlib import Path
from typing import Any

from components.config import UserError
from components.tracking.run import SECONDS, WORKFLOW, client_of, tracking_uri


def describe_run(storage: Path, run_id: str) -> dict[str, Any]:
    """Return a run's id, workflow, status (done, running, failed …) and seconds.

    Raises:
        UserError: there is no such run.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = client_of(tracking_uri(storage)).get_run(run_id)
    except MlflowException as error:
        raise UserError(f"there is no MLflow run {run_id} in {tracking_uri(storage)}") from error
    tags, status = found.data.tags, found.info.status
    return {
        "run_id": run_id,
        "workflow": tags.get(WORKFLOW, ""),
        "status": "done" if status == "FINISHED" else status.lower(),
        "seconds": float(tags.get(SECONDS, 0.0)),
    }


def read_curves(storage: Path, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return metric name → [(step, value)] in order of step, for metrics that were logged more than once."""
    client = client_of(tracking_uri(storage))
    curves = {}
    for name in client.get_run(run_id).data.metrics:
        points = sorted({(point.step, point.value) for point in client.get_metric_history(run_id, name)})
        if len(points) > 1:
            curves[name] = points
    return curves
