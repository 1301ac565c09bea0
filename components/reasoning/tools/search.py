"""The passages of the served index."""

from components.reasoning.events import Passage, Tools

DESCRIPTION = "search[question]: passages of the documents that answer it best"
NEEDS = "retrieve"


async def search(argument: str, tools: Tools) -> str:
    """Return the best passages, each with its title. Raises ValueError where there is no index or nothing is found."""
    if tools.retrieve is None:
        raise ValueError("there is no index to search")
    found = await tools.retrieve(argument.strip())
    if not found:
        raise ValueError("nothing was found")
    return "\n".join(_line(passage) for passage in found)


def _line(passage: Passage) -> str:
    number = f"[{passage['number']}] " if "number" in passage else ""
    return f"{number}{passage.get('title', '')}: {' '.join(passage['text'].split())}"
