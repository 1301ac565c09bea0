"""Pieces cut at the first of a list of separators, and what is still too long at the next."""

from typing import Any, Literal

from components.config import Field
from components.retrieval.chunkers import ChunkerConfig, Embed, Place, Places
from components.retrieval.chunkers._spans import Ruler, pack


class Recursive(ChunkerConfig):
    """Pieces by separators of one's own."""

    name: Literal["recursive"]
    separators: list[str] = Field(
        ["\n\n", "\n", ". ", "; ", ", ", " "],
        min_length=1,
        description="what a text is cut after, the best first; what none of them cuts short enough is cut by tokens",
    )


def recursive(tokenizer: Any, config: Recursive, embed: Embed | None = None) -> Places:
    """Return the function that cuts a text: units end after a separator and are joined while they fit."""
    separators = [separator for separator in config.separators if separator]

    def places(text: str, name: str) -> list[Place]:
        ruler = Ruler(tokenizer, text)
        units: list[Place] = []
        waiting: list[tuple[Place, int]] = [((0, len(text)), 0)]  # a stack: the next in the text on top
        while waiting:
            place, depth = waiting.pop()
            if depth == len(separators) or ruler.count(*place) <= config.max_tokens:
                units.append(place)
            else:
                parts = _split(text, place, separators[depth])
                waiting += [(part, depth + 1) for part in reversed(parts)]
        return pack(units, ruler, config.max_tokens, config.overlap)

    return places


def _split(text: str, place: Place, separator: str) -> list[Place]:
    start, end = place
    parts = []
    while (at := text.find(separator, start, end)) >= 0:
        parts.append((start, at + len(separator)))
        start = at + len(separator)
    return [*parts, (start, end)] if start < end else parts
