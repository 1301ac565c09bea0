"""Looks tools up by their file's name, and calls them within the budget."""

import importlib
import logging
import pkgutil
from collections.abc import Awaitable, Callable, Sequence

from components.config import UserError
from components.reasoning.events import Tools

Tool = Callable[[str, Tools], Awaitable[str]]
logger = logging.getLogger(__name__)


def tool_names() -> list[str]:
    """Return the names of the tools: the files of the folder."""
    from components.reasoning import tools

    return sorted(module.name for module in pkgutil.iter_modules(tools.__path__))


def tool(name: str) -> tuple[Tool, str, str | None]:
    """Return a tool, its description for the model, and what it needs to be handed. Raises UserError."""
    if name not in tool_names():
        raise UserError(f"there is no tool '{name}': choose from {', '.join(tool_names())}")
    module = importlib.import_module(f"components.reasoning.tools.{name}")
    return getattr(module, name), module.DESCRIPTION, getattr(module, "NEEDS", None)


def descriptions(names: Sequence[str]) -> str:
    """Return what the model is told of these tools, one a line."""
    return "\n".join(f"- {tool(name)[1]}" for name in names)


async def use(name: str, argument: str, tools: Tools) -> str:
    """Return what a tool says, or how it failed; a call that the budget does not allow is one that failed, too."""
    if not tools.budget.take("tool_calls"):
        return "Error: no more tool calls are allowed"
    try:
        return await tool(name)[0](argument, tools)
    except ValueError as error:
        return f"Error: {error}"
    except Exception as error:
        if tool(name)[2] == "retrieve":  # an answer that could not look anything up is no answer
            raise
        logger.warning("the tool %s failed: %s: %s", name, type(error).__name__, error)
        return "Error: the tool failed"
