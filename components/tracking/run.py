"""MLflow runs, their metrics and artefacts; what is done already is what they say (registry.py has the models)."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import storage as place
from components.config import UserError
from components.spans import Span
from components.tracking import limits

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from components.tracking.traces import Measure

PARENT_VARIABLE = "RAYLIGN_PARENT_RUN"
_KEY, _RESULT, _PARENT = "raylign.key", "raylign.result", "mlflow.parentRunId"
_ERROR = "raylign.error"
WORKFLOW, SECONDS = "raylign.workflow", "raylign.seconds"  # tags of every run
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Result:
    """What a workflow made: references to artefacts, and figures."""

    outputs: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RunHandle:
    """What a worker needs to write to the driver's run; plain data that crosses to Ray workers."""

    tracking_uri: str
    run_id: str
    storage: str = ""  # as that of the run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write figures to the run, at ``step`` of their curves."""
        from mlflow.entities import Metric

        now_ms = int(time.time() * 1000)
        points = [Metric(name, float(value), now_ms, step or 0) for name, value in limits.taken(metrics).items()]
        client_of(self.tracking_uri).log_batch(self.run_id, metrics=points)


@dataclass(frozen=True)
class Run:
    """One workflow's MLflow run, and the folder that belongs to its step key."""

    id: str
    key: str
    workflow: str
    dir: Path
    cache: Path
    tracking_uri: str
    storage: str = ""  # what ``dir`` is a part of: a folder, or the address whose working copy holds it

    def handle(self) -> RunHandle:
        """Return the part of the run that may cross to a worker."""
        return RunHandle(self.tracking_uri, self.id, self.storage)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write figures to the run, at ``step`` of their curves."""
        self.handle().log_metrics(metrics, step)

    def log_artifact(self, path: str | Path) -> None:
        """Copy a file or a folder to the run's artefacts."""
        if Path(path).is_dir():
            self._client.log_artifacts(self.id, str(path), Path(path).name)
        else:
            self._client.log_artifact(self.id, str(path))

    def log_text(self, text: str, name: str) -> None:
        """Write ``text`` to the run's artefacts as the file ``name``."""
        self._client.log_text(self.id, text, name)

    def log_figure(self, figure: Any, name: str) -> None:
        """Write a matplotlib figure to the run's artefacts as the file ``name``."""
        self._client.log_figure(self.id, figure, name)

    def log_table(self, columns: Mapping[str, list[Any]], name: str) -> None:
        """Write a table, column by column, to the run's artefacts as the file ``name`` (.json); the UI shows it."""
        self._client.log_table(self.id, dict(columns), name)

    def log_traces(
        self, wholes: Sequence[Span], expected: Sequence[Mapping[str, Any]], measures: "Mapping[str, Measure]"
    ) -> None:
        """Write the steps behind answers as traces of the run, and have ``mlflow.genai`` score them.

        Args:
            expected: what a right answer has, of each.
            measures: what scores an answer, by the name of its assessment.
        """
        from components.tracking.traces import score_traces, write_trace

        experiment_id = self._client.get_run(self.id).info.experiment_id
        ids = [write_trace(self.tracking_uri, experiment_id, whole, run_id=self.id) for whole in wholes]
        score_traces(self.tracking_uri, self.id, ids, expected, measures)

    def adopt(self, run_ids: Sequence[str], *, orphans: bool = False) -> None:
        """Make this run the parent of other runs; with ``orphans`` of those that have none."""
        for run_id in run_ids:
            if not (orphans and _PARENT in self._client.get_run(run_id).data.tags):
                self._client.set_tag(run_id, _PARENT, self.id)

    def log_dataset(self, name: str, table_ref: str, role: str) -> None:
        """Record a LanceDB table and its version as an input of the run; ``role`` says what it was for."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": table_ref})
        version = table_ref.rpartition("@")[2]
        dataset = Dataset(name, f"v{version}"[:36], "lancedb", source)
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", role)])]
        self._client.log_inputs(self.id, inputs)

    @property
    def _client(self) -> "MlflowClient":
        return client_of(self.tracking_uri)


def check_tracking(storage: str) -> None:
    """Refuse an object store without an MLflow server: its database cannot lie there.

    Raises:
        UserError: ``MLFLOW_TRACKING_URI`` is not set, or is a file of this host.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if place.is_remote(storage) and not uri.startswith(("http://", "https://", "postgresql", "mysql", "mssql")):
        raise UserError(
            f"storage={storage} needs an MLflow server that every host reaches, as runs are not kept in an object "
            "store: start one (README, 'MLflow for a team') and set MLFLOW_TRACKING_URI=http://<host>:5000"
        )


def tracking_uri(storage: Path) -> str:
    """Return the MLflow store: ``MLFLOW_TRACKING_URI`` where it is set, else a SQLite file in the storage."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{storage}/mlflow.db"


@dataclass(frozen=True)
class Finished:
    """A run that the ledger has as done."""

    run_id: str
    result: Result
    seconds: float


def find_result(storage: Path, experiment: str, workflow: str, key: str) -> Finished | None:
    """Return the newest finished run with this step key, if its outputs still exist."""
    for found in _search(storage, experiment, key, "= 'FINISHED'"):
        result = Result(**json.loads(limits.text_of(_RESULT, found.data.tags)))
        missing = [path for path in _paths(result.outputs) if not _is_there(path)]
        if not missing:
            seconds = float(found.data.tags.get(SECONDS, 0.0))
            return Finished(found.info.run_id, result, seconds)
        logger.warning("%s is done (run %s), but %s is gone: doing it again", workflow, found.info.run_id, missing[0])
    return None


@contextlib.contextmanager
def open_run(
    storage: Path,
    experiment: str,
    workflow: str,
    key: str,
    facts: Mapping[str, str],
    *,
    name: str | None = None,
    reopen: bool = False,
    parent: str | None = None,
    address: str = "",
) -> Iterator[Run]:
    """Start the run of a step key, or go on with the one that was interrupted; failed if the body raises.

    Args:
        facts: tags: commit and the like.
        reopen: go on with a finished run, too.
        parent: id of the run that this one is shown under; none takes what the environment says.
        address: the storage that ``storage`` is the working copy of, where it is in an object store.
    """
    uri = tracking_uri(storage)
    client = client_of(uri)
    interrupted = _search(storage, experiment, key, "!= 'REOPENED'" if reopen else "!= 'FINISHED'")
    tags = {_KEY: key, WORKFLOW: workflow, **facts}
    if parent := parent or os.environ.get(PARENT_VARIABLE):
        tags[_PARENT] = parent
    if interrupted:
        run_id = interrupted[0].info.run_id
        client.update_run(run_id, "RUNNING")
        for tag, value in tags.items():
            client.set_tag(run_id, tag, value)
        logger.info("going on with run %s", run_id)
    else:
        created = client.create_run(experiment_of(uri, storage, experiment), tags=tags, run_name=name or workflow)
        run_id = created.info.run_id
    folder = storage / workflow / key[:12]
    folder.mkdir(parents=True, exist_ok=True)
    cache = storage / "cache"
    cache.mkdir(exist_ok=True)
    try:
        yield Run(run_id, key, workflow, folder, cache, uri, address or str(storage))
    except BaseException as error:
        try:
            client.set_tag(run_id, _ERROR, f"{type(error).__name__}: {error}"[: limits.TAG])
            client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        except Exception:  # a full disk, say, ends both: what came first is what a person has to know
            logger.exception("the MLflow store %s did not take that run %s failed", uri, run_id)
        raise


def finish_run(run: Run, result: Result, seconds: float) -> None:
    """Record the result, which makes the step count as done, as the last thing that a run does."""
    text = json.dumps({"outputs": result.outputs, "metrics": result.metrics})
    client = client_of(run.tracking_uri)
    data = client.get_run(run.id).data
    known = data.metrics
    if _ERROR in data.tags:  # of an earlier try
        client.delete_tag(run.id, _ERROR)
    figures = limits.taken(result.metrics)
    curves = {name for name in figures if name in known and _is_curve(client, run.id, name)}
    if single := {name: value for name, value in figures.items() if name not in curves}:
        run.log_metrics(single)  # the end of a curve is there already, and at step 0 it would stand at its beginning
    client.set_tag(run.id, SECONDS, f"{seconds:.1f}")
    for tag, part in limits.as_tags(_RESULT, text, data.tags).items():
        client.set_tag(run.id, tag, part)
    client.set_terminated(run.id, "FINISHED")


def _is_curve(client: "MlflowClient", run_id: str, name: str) -> bool:
    return any(point.step for point in client.get_metric_history(run_id, name))


def log_params(run: Run, params: Mapping[str, Any]) -> None:
    """Record a configuration's leaves as parameters; a resumed run has the same ones already."""
    from mlflow.entities import Param

    known = client_of(run.tracking_uri).get_run(run.id).data.params
    fresh = [Param(name, str(value)[:6000]) for name, value in limits.taken(params).items() if name not in known]
    client_of(run.tracking_uri).log_batch(run.id, params=fresh)


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _paths(item)
    elif isinstance(value, str) and (value.startswith("/") or place.is_remote(value)):
        yield value.partition("#")[0]


def _is_there(path: str) -> bool:
    return place.exists(path) if place.is_remote(path) else Path(path).exists()


def _search(storage: Path, experiment: str, key: str, status: str) -> list[Any]:
    """Return the runs of a step key whose status meets the condition ``status``, newest first."""
    client = client_of(tracking_uri(storage))
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    query = f"tags.`{_KEY}` = '{key}' and attributes.status {status}"
    return list(client.search_runs([found.experiment_id], query, order_by=["attributes.start_time DESC"]))


def experiment_of(uri: str, storage: Path, experiment: str) -> str:
    """Return the id of an experiment, which is made if it is not there."""
    from mlflow.exceptions import MlflowException

    client = client_of(uri)
    found = client.get_experiment_by_name(experiment)
    if found is not None:
        return found.experiment_id
    is_local = not os.environ.get("MLFLOW_TRACKING_URI")
    location = (storage / "mlruns").as_uri() if is_local else None
    try:
        return client.create_experiment(experiment, artifact_location=location)
    except MlflowException:  # another step made it in the meantime
        found = client.get_experiment_by_name(experiment)
        if found is None:
            raise
        return found.experiment_id


def client_of(uri: str) -> "MlflowClient":
    """Return the client of an MLflow store."""
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)
