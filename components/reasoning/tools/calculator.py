"""Arithmetic, computed exactly."""

from components.reasoning.calculate import calculate, shown
from components.reasoning.events import Tools

DESCRIPTION = "calculator[expression]: the value of arithmetic, such as (48 + 24) / 2"


async def calculator(argument: str, tools: Tools) -> str:
    """Return the value of an expression. Raises ValueError where it is no arithmetic."""
    return shown(calculate(argument))
