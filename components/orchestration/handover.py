"""Between a storage in an object store and a workflow, which works on folders: inputs come, outputs go."""

from pathlib import Path
from typing import Any, TypeVar

from components import storage
from components.config import Config, WorkflowConfig
from components.orchestration.ledger import Place, put, references
from components.tracking.run import Result, Run

ConfigT = TypeVar("ConfigT", bound=WorkflowConfig)


def to_bring(config: Config) -> list[tuple[Place, str]]:
    """Return (place, address) of the paths, models and adapters that lie in object stores."""
    return [(where, value) for where, kind, value in references(config) if kind != "table" and storage.is_remote(value)]


def bring(config: ConfigT) -> ConfigT:
    """Return the configuration with its paths, models and adapters copied from object stores to this host.

    Tables stay where they are. The step key is that of the configuration as it was: a copy's place means nothing.

    Raises:
        UserError: there is nothing at an address.
    """
    values = config.model_dump()
    for where, value in to_bring(config):
        put(values, where, str(storage.download(value, storage.local(config.storage, value))))
    return type(config).model_validate(values)


def hand_over(result: Result, run: Run, place: str) -> Result:
    """Return the result with the addresses of what it names, which by then is in the object store.

    In a local storage it is there already. What lies outside the storage's folder is left alone.
    """
    if not storage.is_remote(place):
        return result
    storage.upload(run.dir, storage.address(place, run.dir))
    return Result(_addressed(result.outputs, run, place), result.metrics)


def _addressed(value: Any, run: Run, place: str) -> Any:
    if isinstance(value, dict):
        return {name: _addressed(item, run, place) for name, item in value.items()}
    if isinstance(value, list):
        return [_addressed(item, run, place) for item in value]
    if not isinstance(value, str) or not value.startswith("/"):
        return value
    path, mark, table = value.partition("#")
    target = storage.address(place, path)
    if not storage.is_remote(target):
        return value
    if Path(path).exists() and not Path(path).is_relative_to(run.dir) and not _is_there(Path(path), target, run):
        storage.upload(Path(path), target)
    return target + mark + table


def _is_there(path: Path, target: str, run: Run) -> bool:
    """Return whether the store has it already: an input that was fetched, or part of a cache, which never changes."""
    return storage.is_copy(path) or (path.is_relative_to(run.cache) and storage.exists(target))
