"""Step keys: a step is done when a finished run carries the hash of all that decides its result."""

import hashlib
import json
import logging
import os
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components import storage
from components.config import Config, Reference, Unkeyed, UserError, WorkflowConfig

if typing.TYPE_CHECKING:
    from components.tracking.run import Finished

logger = logging.getLogger(__name__)


def step_key(workflow: str, config: Config) -> str:
    """Return the SHA-256 of the workflow, its resolved configuration and the content that it refers to.

    Where to store and what cluster to use do not enter it; a file's content, a folder's listing and a
    table's version do, so that a changed input is a new step. So does what is known of an index, where that is read.

    Raises:
        UserError: an input path does not exist.
    """
    values = _keyed(config, config.model_dump(mode="json"))
    digests = {}
    for path, mark, value in _marked(config):
        dotted = ".".join(path)
        digests[dotted] = _content(mark.kind, value, dotted)
        if mark.beside:
            uri, _, table = value.partition("#")
            neighbour = f"{uri}#{table.partition('@')[0]}{mark.beside}"
            digests[f"{dotted}{mark.beside}"] = _content(mark.kind, neighbour, dotted)
    text = json.dumps([workflow, values, digests], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def find_done(workflow: str, config: WorkflowConfig, key: str, *, in_effect: bool = True) -> "Finished | None":
    """Return the newest finished run with a step key, if its outputs exist and what it did elsewhere is still so.

    Args:
        in_effect: whether the latter matters.
    """
    from components.tracking.run import find_result

    done = find_result(storage.folder(config.storage), config.experiment, workflow, key)
    if in_effect and done is not None and not config.in_effect(done.result.outputs):
        logger.info("%s is done (run %s), but something else has taken its place since", workflow, done.run_id)
        return None
    return done


def _keyed(config: Config, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a configuration without those that are unkeyed, in its sections, too."""
    kept = {}
    for name, value in values.items():
        field, section = type(config).model_fields[name], getattr(config, name)
        if not any(isinstance(mark, Unkeyed) for mark in field.metadata):
            kept[name] = _keyed(section, value) if isinstance(section, Config) else value
    return kept


Place = tuple[str, ...]  # where a value stands: a dotted key, taken apart, as a name in it may have dots of its own


def references(config: Config) -> Iterator[tuple[Place, str, str]]:
    """Yield (place, kind, value) for each field that points at a path, a model, an adapter or a table."""
    yield from ((place, mark.kind, value) for place, mark, value in _marked(config))


def _marked(config: Config, within: Place = ()) -> Iterator[tuple[Place, Reference, str]]:
    """Yield (place, marker, value) for each field that has one and is set."""
    for name, field in type(config).model_fields.items():
        value, here = getattr(config, name), (*within, name)
        if isinstance(value, Config):
            yield from _marked(value, here)
            continue
        held = list(_held(value))
        if sections := [(key, item) for key, item in held if isinstance(item, Config)]:
            for key, item in sections:
                yield from _marked(item, (*here, key))
            continue
        marks = [mark for mark in field.metadata if isinstance(mark, Reference)]
        mark = marks[0] if marks else _mark_within(field.annotation)
        if mark is None or value is None:
            continue
        if isinstance(value, str):
            yield here, mark, value
        else:
            yield from (((*here, key), mark, item) for key, item in held if mark.covers(key, item))


def _held(value: Any) -> Iterator[tuple[str, Any]]:
    """Yield what a list, tuple or dictionary holds, by its number or key; nothing else holds anything."""
    if isinstance(value, dict):
        yield from value.items()
    elif isinstance(value, (list, tuple)):
        yield from ((str(index), item) for index, item in enumerate(value))


def put(values: Any, path: Sequence[str], value: str) -> None:
    """Set what lies at a place within plain containers."""
    for part in path[:-1]:
        values = values[int(part)] if isinstance(values, (list, tuple)) else values[part]
    last: Any = int(path[-1]) if isinstance(values, list) else path[-1]
    values[last] = value


def _mark_within(annotation: Any) -> Reference | None:
    """Return the marker inside ``ModelRef | None``, ``list[InputPath]``, ``dict[str, ModelRef]``."""
    for mark in getattr(annotation, "__metadata__", ()):
        if isinstance(mark, Reference):
            return mark
    found = (_mark_within(part) for part in typing.get_args(annotation))
    return next((mark for mark in found if mark), None)


def _content(kind: str, value: str, dotted: str) -> str:
    if storage.is_remote(value):
        return _remote_content(kind, value, dotted)
    if kind == "path":
        path = Path(value).expanduser()
        if not path.exists():
            raise UserError(f"'{dotted}' names {value}, which does not exist")
        return _digest(path)
    if kind in ("model", "adapter"):
        return _digest(Path(value)) if Path(value).is_dir() else value
    uri, _, table = value.partition("#")
    table, _, version = table.partition("@")
    if version.isdigit() or not Path(uri).is_dir():
        return value
    if version:  # a tag, which moves: Lance keeps in a file which version it means
        tag = Path(uri) / f"{table}.lance" / "_refs" / "tags" / f"{version}.json"
        return f"{value}@{json.loads(tag.read_text())['version'] if tag.is_file() else None}"
    versions = sorted((Path(uri) / f"{table}.lance" / "_versions").glob("*"))
    return f"{value}@{max((path.stat().st_mtime_ns for path in versions), default=0)}"


def _remote_content(kind: str, value: str, dotted: str) -> str:
    """Return what tells whether that which lies in an object store has changed."""
    if kind != "table":
        if not (found := storage.listing(value)):
            raise UserError(f"'{dotted}' names {value}, where there is nothing")
        return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    uri, _, table = value.partition("#")
    table, _, version = table.partition("@")
    if version.isdigit():
        return value
    if version:  # a tag, which moves: its file is written anew
        tags = storage.listing(f"{uri}/{table}.lance/_refs/tags")
        return f"{value}@{tags.get(f'{version}.json')}"
    versions = storage.listing(f"{uri}/{table}.lance/_versions")
    return f"{value}@{max((changed for _, changed in versions.values()), default=0)}"


def _digest(path: Path) -> str:
    """Return a digest of a file's content, or of a folder's listing with sizes and times of change."""
    digest = hashlib.sha256()
    if path.is_file():
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()
    for entry in sorted(_files_below(path)):
        status = entry.stat()
        name = os.fsencode(entry.relative_to(path))  # a name need not be UTF-8
        digest.update(name + f"\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield every file below a folder, however deep; links to folders are not followed."""
    waiting = [folder]
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except OSError:  # what cannot be listed is for whoever reads the folder to tell
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting.append(Path(entry.path))
            elif Path(entry.path).is_file():
                yield Path(entry.path)
