"""Menus: a folder in which each file offers one callable named like the file, and that callable's config class."""

import importlib
import pkgutil
from collections.abc import Callable
from types import ModuleType
from typing import Any

from components.config import Config, UserError, parse


def names(folder: str) -> list[str]:
    """Return the entries of a menu: the files of the package ``folder`` that have no leading underscore."""
    package = importlib.import_module(folder)
    return sorted(entry.name for entry in pkgutil.iter_modules(package.__path__) if not entry.name.startswith("_"))


def module(folder: str, name: str) -> ModuleType:
    """Return the module of the entry ``name``; it holds the callable ``name`` and the config class ``Name``.

    Raises:
        UserError: the menu has no such entry.
    """
    if name not in names(folder):
        raise UserError(f"there is no '{name}' in {folder}: choose one of {', '.join(names(folder))}")
    return importlib.import_module(f"{folder}.{name}")


def entry(folder: str, name: str) -> Callable[..., Any]:
    """Return the callable of the entry ``name``. Raises as ``module``."""
    return getattr(module(folder, name), name)


def configs(folder: str) -> dict[str, type[Config]]:
    """Return entry → config class of a menu."""
    return {name: _schema(folder, name) for name in names(folder)}


def chosen(folder: str, values: Any, where: str) -> Config:
    """Return a YAML section as the config of the entry that its ``name`` chooses.

    Args:
        where: dotted path of the section, for error messages.

    Raises:
        UserError: no name, no such entry, or a key or value that its config does not take.
    """
    if isinstance(values, Config):
        return values
    if not isinstance(values, dict) or not isinstance(values.get("name"), str):
        raise UserError(f"'{where}' needs a name, one of {', '.join(names(folder))}, and that one's options")
    return parse(_schema(folder, values["name"]), values, f"{where}.")


def _schema(folder: str, name: str) -> type[Config]:
    return getattr(module(folder, name), name.title().replace("_", ""))
