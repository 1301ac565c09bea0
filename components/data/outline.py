"""The headings of a markdown text, and which of them a place in it stands under."""

import bisect
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

_LINE_END = re.compile(r"\r\n?|\n")
_LONGEST_TITLE = 100
_JOINT = " > "


@dataclass(frozen=True)
class Heading:
    """A heading of a level from 1 to 6, where its line begins, in characters."""

    start: int
    level: int
    title: str


def headings(text: str) -> list[Heading]:
    """Return the headings of a markdown text in order, but not those in quotations, lists and code.

    A title longer than a hundred characters is cut: it is repeated with every passage under it.
    Source: CommonMark 0.31, sections 4.2 and 4.3.
    """
    if "#" not in text and not re.search(r"^ {0,3}[=-]+[ \t]*$", text, re.MULTILINE):
        return []
    from markdown_it import MarkdownIt

    tokens = MarkdownIt("commonmark").disable("inline").parse(text)
    lines = [0, *(found.end() for found in _LINE_END.finditer(text))]
    return [
        Heading(lines[token.map[0]], int(token.tag[1:]), _short(inner.content))
        for token, inner in pairwise(tokens)
        if token.type == "heading_open" and token.level == 0 and token.map
    ]


def paths(found: Sequence[Heading]) -> list[str]:
    """Return for each heading the titles above it and its own, outermost first: ``Install > On a server``."""
    open_headings: list[Heading] = []
    made = []
    for heading in found:
        while open_headings and open_headings[-1].level >= heading.level:
            open_headings.pop()
        open_headings.append(heading)
        made.append(_JOINT.join(own.title for own in open_headings if own.title))
    return made


class Outline:
    """Tells the section of places in one markdown text."""

    def __init__(self, text: str) -> None:
        found = headings(text)
        self._starts, self._paths = [heading.start for heading in found], paths(found)

    def section(self, place: int) -> str | None:
        """Return the path of headings that the character at ``place`` stands under; None before the first."""
        number = bisect.bisect_right(self._starts, place) - 1
        return self._paths[number] or None if number >= 0 else None


def _short(title: str) -> str:
    title = " ".join(title.split())
    return title if len(title) <= _LONGEST_TITLE else title[: _LONGEST_TITLE - 1] + "…"
