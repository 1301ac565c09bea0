"""Looks a strategy up by its file's name and checks its options before anything starts."""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from components.config import UserError


def names() -> list[str]:
    """Return the names of the strategies: the files of the folder."""
    from components.reasoning import strategies

    return sorted(module.name for module in pkgutil.iter_modules(strategies.__path__))


def needs(name: str, options: Mapping[str, Any]) -> frozenset[str]:
    """Return what a strategy has to be handed with these options: score, similar, retrieve, table.

    Raises:
        UserError: as ``strategy``.
    """
    strategy(name, options)
    module = importlib.import_module(f"components.reasoning.strategies.{name}")
    return module.needs(options) if hasattr(module, "needs") else frozenset()


def strategy(name: str, options: Mapping[str, Any]) -> Any:
    """Return the strategy with its options filled in: a function of (messages, tools) that yields pieces.

    Raises:
        UserError: no such strategy, an option that it does not have, or a value of the wrong type.
    """
    if name not in names():
        raise UserError(f"there is no reasoning strategy '{name}': choose one of {', '.join(names())}")
    function = getattr(importlib.import_module(f"components.reasoning.strategies.{name}"), name)
    parameters = inspect.signature(function).parameters.values()
    known = {p.name: p.annotation for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}
    filled = {}
    required = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty}
    if missing := sorted(required - set(options)):
        raise UserError(f"the strategy '{name}' needs the option '{missing[0]}': set it under options")
    for option, value in options.items():
        if option not in known:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise UserError(f"the strategy '{name}' has no option '{option}': {has}")
        try:
            filled[option] = TypeAdapter(known[option]).validate_python(value, strict=True)
        except ValidationError as error:
            problem = error.errors()[0]["msg"]
            raise UserError(f"option '{option}' of the strategy '{name}' got {value!r}: {problem}") from error
    return functools.partial(function, **filled)
