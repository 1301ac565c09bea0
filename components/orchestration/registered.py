"""Registered models that a configuration refers to: pinned, in the step key, and looked up for the work.

An alias moves, so a step is about the version that the alias has when the step begins. Its key is the same wherever it
is computed: by the pipeline that looks whether the step is done, and by the job that does it.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from components import storage as place
from components.config import WorkflowConfig
from components.orchestration.ledger import put, references, step_key

ConfigT = TypeVar("ConfigT", bound=WorkflowConfig)


def pinned(config: ConfigT) -> ConfigT:
    """Return the configuration with the version that each ``models:/name@alias`` has now: ``models:/name/3@alias``.

    Raises:
        UserError: no such model or alias.
    """
    from components.tracking.registry import pin_registered

    return _with(config, ("model", "adapter"), pin_registered)


def key_of(workflow: str, config: WorkflowConfig) -> str:
    """Return the step key, in which a registered model is the files behind its version, as any other model is.

    Raises:
        UserError: no such model, alias or version, or as ``step_key``.
    """
    from components.tracking.registry import registered_source

    return step_key(workflow, _with(config, ("model",), registered_source))


def looked_up(config: ConfigT) -> ConfigT:
    """Return the configuration with registered models replaced by the folders or addresses where they are.

    An adapter's reference stays: it is served under the name and version that it has.

    Raises:
        UserError: no such model, alias, version or run.
    """
    from components.tracking.registry import registered_source, resolve_registered

    def found(storage: Path, reference: str) -> str:
        source = registered_source(storage, reference)
        return resolve_registered(storage, reference) if source == reference else source

    return _with(config, ("model",), found)


def _with(config: ConfigT, kinds: tuple[str, ...], change: Callable[[Path, str], str]) -> ConfigT:
    """Return the configuration with each registered reference of these kinds changed."""
    values = config.model_dump()
    for where, kind, value in references(config):
        if kind in kinds and value.startswith(("models:/", "runs:/")):
            put(values, where, change(place.folder(config.storage), value))
    return type(config).model_validate(values)
