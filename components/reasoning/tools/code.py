"""A Python program, run in the sandbox."""

from components.reasoning.events import Tools
from components.reasoning.programs import source_of
from components.reasoning.sandbox import SandboxLimits, run_program

DESCRIPTION = "code[program]: what a short Python program prints; it has no files and no network"


async def code(argument: str, tools: Tools) -> str:
    """Return what the program prints, or the value of its last line. Raises ValueError where it fails."""
    outcome = await run_program(source_of(argument), SandboxLimits().within(tools.budget.seconds_left()))
    if outcome.failed:
        raise ValueError(outcome.error)
    return outcome.value or "the program printed nothing"
