"""The one door to MLflow: runs, their metrics and artefacts, and the model registry."""

import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import storage as place
from components.config import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

PARENT_VARIABLE = "RAYLIGN_PARENT_RUN"
_KEY, _RESULT, _WORKFLOW = "raylign.key", "raylign.result", "raylign.workflow"
_SECONDS, _PARENT = "raylign.seconds", "mlflow.parentRunId"
_TAG_LIMIT = 8_000  # characters that MLflow's SQL store takes in one tag
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
        points = [Metric(name, float(value), now_ms, step or 0) for name, value in metrics.items()]
        _client(self.tracking_uri).log_batch(self.run_id, metrics=points)


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

    def adopt(self, run_ids: Sequence[str]) -> None:
        """Make this run the parent of other runs."""
        for run_id in run_ids:
            self._client.set_tag(run_id, _PARENT, self.id)

    def log_dataset(self, name: str, table_ref: str, role: str) -> None:
        """Record a LanceDB table and its version as an input of the run; ``role`` says what it was for."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = json.dumps({"uri": table_ref})
        version = table_ref.rpartition("@")[2]
        dataset = Dataset(name, f"v{version}"[:36], "lancedb", source)
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", role)])]
        self._client.log_inputs(self.id, inputs)

    def register_model(self, name: str, folder: Path, alias: str, tags: Mapping[str, str]) -> str:
        """Register ``folder`` as a new version of the model ``name``, move ``alias`` to it, return the version.

        A folder that is registered already keeps its version: registering is idempotent.
        """
        client = self._client
        from mlflow.exceptions import MlflowException

        with contextlib.suppress(MlflowException):  # it exists already
            client.create_registered_model(name)
        source = place.address(self.storage, folder.resolve()) if place.is_remote(self.storage) else ""
        source = source if place.is_remote(source) else folder.resolve().as_uri()
        for known in client.search_model_versions(f"name = '{name}'"):
            if known.source == source:
                version = str(known.version)
                break
        else:
            version = str(client.create_model_version(name, source, self.id, dict(tags)).version)
        client.set_registered_model_alias(name, alias, version)
        return version

    @property
    def _client(self) -> "MlflowClient":
        return _client(self.tracking_uri)


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
        result = Result(**json.loads(found.data.tags[_RESULT]))
        missing = [path for path in _paths(result.outputs) if not _is_there(path)]
        if not missing:
            seconds = float(found.data.tags.get(_SECONDS, 0.0))
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
    client = _client(uri)
    interrupted = _search(storage, experiment, key, "!= 'REOPENED'" if reopen else "!= 'FINISHED'")
    tags = {_KEY: key, _WORKFLOW: workflow, **facts}
    if parent := parent or os.environ.get(PARENT_VARIABLE):
        tags[_PARENT] = parent
    if interrupted:
        run_id = interrupted[0].info.run_id
        client.update_run(run_id, "RUNNING")
        for tag, value in tags.items():
            client.set_tag(run_id, tag, value)
        logger.info("going on with run %s", run_id)
    else:
        created = client.create_run(_experiment_id(client, storage, experiment), tags=tags, run_name=name or workflow)
        run_id = created.info.run_id
    folder = storage / workflow / key[:12]
    folder.mkdir(parents=True, exist_ok=True)
    cache = storage / "cache"
    cache.mkdir(exist_ok=True)
    try:
        yield Run(run_id, key, workflow, folder, cache, uri, address or str(storage))
    except BaseException as error:
        client.set_tag(run_id, "raylign.error", f"{type(error).__name__}: {error}"[:_TAG_LIMIT])
        client.set_terminated(run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise


def finish_run(run: Run, result: Result, seconds: float) -> None:
    """Record the result, which makes the step count as done, as the last thing that a run does."""
    text = json.dumps({"outputs": result.outputs, "metrics": result.metrics})
    assert len(text) < _TAG_LIMIT, f"{run.workflow}'s result is too large to be recorded: {len(text)} characters"
    client = _client(run.tracking_uri)
    known = client.get_run(run.id).data.metrics
    curves = {name for name in result.metrics if name in known and _is_curve(client, run.id, name)}
    if single := {name: value for name, value in result.metrics.items() if name not in curves}:
        run.log_metrics(single)  # the end of a curve is there already, and at step 0 it would stand at its beginning
    client.set_tag(run.id, _SECONDS, f"{seconds:.1f}")
    client.set_tag(run.id, _RESULT, text)
    client.set_terminated(run.id, "FINISHED")


def _is_curve(client: "MlflowClient", run_id: str, name: str) -> bool:
    return any(point.step for point in client.get_metric_history(run_id, name))


def log_params(run: Run, params: Mapping[str, Any]) -> None:
    """Record a configuration's leaves as parameters; a resumed run has the same ones already."""
    from mlflow.entities import Param

    known = _client(run.tracking_uri).get_run(run.id).data.params
    fresh = [Param(name, str(value)[:6000]) for name, value in params.items() if name not in known]
    _client(run.tracking_uri).log_batch(run.id, params=fresh)


def describe_run(storage: Path, run_id: str) -> dict[str, Any]:
    """Return a run's id, workflow, status (done, running, failed …) and seconds.

    Raises:
        UserError: there is no such run.
    """
    from mlflow.exceptions import MlflowException

    try:
        found = _client(tracking_uri(storage)).get_run(run_id)
    except MlflowException as error:
        raise UserError(f"there is no MLflow run {run_id} in {tracking_uri(storage)}") from error
    tags, status = found.data.tags, found.info.status
    return {
        "run_id": run_id,
        "workflow": tags.get(_WORKFLOW, ""),
        "status": "done" if status == "FINISHED" else status.lower(),
        "seconds": float(tags.get(_SECONDS, 0.0)),
    }


def read_curves(storage: Path, run_id: str) -> dict[str, list[tuple[int, float]]]:
    """Return metric name → [(step, value)] in order of step, for metrics that were logged more than once."""
    client = _client(tracking_uri(storage))
    curves = {}
    for name in client.get_run(run_id).data.metrics:
        points = sorted({(point.step, point.value) for point in client.get_metric_history(run_id, name)})
        if len(points) > 1:
            curves[name] = points
    return curves


def registered_source(storage: Path, reference: str) -> str:
    """Return what is behind a ``models:/`` or ``runs:/`` reference: an address in an object store, or a local folder.

    Raises:
        UserError: as ``resolve_registered``.
    """
    from mlflow.exceptions import MlflowException

    if reference.startswith("models:/"):
        uri = tracking_uri(storage)
        try:
            source = str(_registered(uri, reference).source)
        except MlflowException as error:
            raise UserError(f"{reference} is not in the MLflow store {uri}: {error.message}") from error
        if place.is_remote(source):
            return source
    return resolve_registered(storage, reference)


def resolve_registered(storage: Path, reference: str) -> str:
    """Return the local folder behind ``models:/name@alias``, ``models:/name/version`` or ``runs:/id/path``.

    In ``models:/name/version@alias``, as `pin_registered` writes it, the version counts.

    Raises:
        UserError: no such model, alias, version or run.
    """
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(storage)
    try:
        if not reference.startswith("models:/"):
            return download_artifacts(artifact_uri=reference, tracking_uri=uri)
        version = _registered(uri, reference)
        assert version.source is not None, f"{reference} was registered without a source"
        if version.source.startswith("file://"):
            return version.source.removeprefix("file://")
        if place.is_remote(version.source):
            kept = storage / "fetched" / f"{registered_parts(reference)[0]}-{version.version}"
            return str(place.download(version.source, kept))
        return download_artifacts(artifact_uri=version.source, tracking_uri=uri, dst_path=tempfile.mkdtemp())
    except MlflowException as error:
        raise UserError(f"{reference} is not in the MLflow store {uri}: {error.message}") from error


def pin_registered(storage: Path, reference: str) -> str:
    """Return ``models:/name@alias`` with the version that the alias has now: ``models:/name/3@alias``.

    Any other reference says already what it means, and comes back as it is.

    Raises:
        UserError: no such model or alias.
    """
    from mlflow.exceptions import MlflowException

    name, number, alias = registered_parts(reference)
    if not name or number or not alias:
        return reference
    uri = tracking_uri(storage)
    try:
        return f"models:/{name}/{_registered(uri, reference).version}@{alias}"
    except MlflowException as error:
        raise UserError(f"{reference} is not in the MLflow store {uri}: {error.message}") from error


def registered_parts(reference: str) -> tuple[str, str, str]:
    """Return (name, version, alias) of a ``models:/`` reference, empty where it does not say, as no other does."""
    if not reference.startswith("models:/"):
        return "", "", ""
    named, _, alias = reference.removeprefix("models:/").partition("@")
    name, _, number = named.partition("/")
    return name, number, alias


def registered_tags(storage: Path, reference: str) -> dict[str, str]:
    """Return the tags of a ``models:/`` reference's version, as `Run.register_model` wrote them; of others none."""
    if not registered_parts(reference)[0]:
        return {}
    return dict(_registered(tracking_uri(storage), reference).tags)


def _registered(uri: str, reference: str) -> Any:
    """Return MLflow's entry of a ``models:/`` reference."""
    name, number, alias = registered_parts(reference)
    client = _client(uri)
    return client.get_model_version(name, number) if number else client.get_model_version_by_alias(name, alias)


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
    client = _client(tracking_uri(storage))
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return []
    query = f"tags.`{_KEY}` = '{key}' and attributes.status {status}"
    return list(client.search_runs([found.experiment_id], query, order_by=["attributes.start_time DESC"]))


def _experiment_id(client: "MlflowClient", storage: Path, experiment: str) -> str:
    from mlflow.exceptions import MlflowException

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


def _client(uri: str) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)
