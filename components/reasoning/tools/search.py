"""The passages of the served index."""

from components.reasoning.events import Tools
from components.reasoning.searches import numbered

DESCRIPTION = "search[question]: passages of the documents that answer it best"
NEEDS = "retrieve"


async def search(argument: str, tools: Tools) -> str:
    """Return the best passages as prompts may show them.

    Raises:
        ValueError: there is no index, or nothing is found.
    """
    if tools.retrieve is None:
        raise ValueError("there is no index to search")
    found = await tools.retrieve(argument.strip())
    if not found:
        raise ValueError("nothing was found")
    return numbered(found, tools)
