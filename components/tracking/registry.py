"""MLflow's model registry: versions of a model, and the names that references give them."""

import contextlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components import storage as place
from components.config import UserError
from components.tracking.run import Run, client_of, tracking_uri


def register_model(run: Run, name: str, folder: Path, alias: str, tags: Mapping[str, str]) -> str:
    """Register ``folder`` as a new version of the model ``name``, move ``alias`` to it, return the version.

    A folder that is registered already keeps its version as long as its content, the tag ``digest``, is the same:
    registering is idempotent, and a version is never of other bytes than those that it was made for.
    """
    from mlflow.exceptions import MlflowException

    client = client_of(run.tracking_uri)
    with contextlib.suppress(MlflowException):  # it exists already
        client.create_registered_model(name)
    source = place.address(run.storage, folder.resolve()) if place.is_remote(run.storage) else ""
    source = source if place.is_remote(source) else folder.resolve().as_uri()
    for known in client.search_model_versions(f"name = '{name}'"):
        if known.source == source and known.tags.get("digest") == tags.get("digest"):
            version = str(known.version)
            break
    else:
        version = str(client.create_model_version(name, source, run.id, dict(tags)).version)
    client.set_registered_model_alias(name, alias, version)
    return version


def registered_source(storage: Path, reference: str) -> str:
    """Return the folder, or the address in an object store, behind a ``models:/`` or ``runs:/`` reference.

    What MLflow itself keeps, and no one changes, is known by its reference: that comes back as it is.

    Raises:
        UserError: no such model, alias or version.
    """
    from mlflow.exceptions import MlflowException

    if not reference.startswith("models:/"):
        return reference
    uri = tracking_uri(storage)
    try:
        source = str(_registered(uri, reference).source)
    except MlflowException as error:
        raise UserError(f"{reference} is not in the MLflow store {uri}: {error.message}") from error
    if source.startswith("file://"):
        return place.plain(source)
    return source if place.is_remote(source) else reference


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
            return place.plain(version.source)
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
    """Return the tags of a ``models:/`` reference's version, as `register_model` wrote them; of others none."""
    if not registered_parts(reference)[0]:
        return {}
    return dict(_registered(tracking_uri(storage), reference).tags)


def _registered(uri: str, reference: str) -> Any:
    """Return MLflow's entry of a ``models:/`` reference."""
    name, number, alias = registered_parts(reference)
    client = client_of(uri)
    return client.get_model_version(name, number) if number else client.get_model_version_by_alias(name, alias)
