"""Pieces that keep to sections: a section that fits stays whole, with its subsections; no piece crosses a heading."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from components.data.outline import Heading, headings
from components.retrieval.chunkers import ChunkerConfig, Embed, Place, Places
from components.retrieval.chunkers._spans import Ruler, chunk_with


class Markdown(ChunkerConfig):
    """Pieces by headings; which section a passage is of stands in its column ``section``, whatever the chunker."""

    name: Literal["markdown"]


def markdown(tokenizer: Any, config: Markdown, embed: Embed | None = None) -> Places:
    """Return the function that cuts a text; what stands under one heading and is too long is cut as markdown.

    That is between lists, blocks of code, paragraphs and sentences, in this order, with overlap.
    """
    from semantic_text_splitter import MarkdownSplitter

    splitter = MarkdownSplitter.from_huggingface_tokenizer(tokenizer, config.max_tokens, overlap=config.overlap)

    def places(text: str, name: str) -> list[Place]:
        ruler = Ruler(tokenizer, text)
        made: list[Place] = []
        for start, end in _sections(headings(text), len(text), ruler, config.max_tokens):
            if ruler.count(start, end) <= config.max_tokens:
                made.append((start, end))
            else:
                made += [(start + at, start + to) for at, to in chunk_with(splitter, text[start:end])]
        return made

    return places


def _sections(found: Sequence[Heading], end: int, ruler: Ruler, max_tokens: int) -> Iterator[Place]:
    """Yield the largest sections that fit, and of those that do not, what stands before their first subsection."""
    starts = [heading.start for heading in found]
    if not starts or starts[0] > 0:
        yield 0, starts[0] if starts else end
    number = 0
    while number < len(found):
        after = number + 1
        while after < len(found) and found[after].level > found[number].level:
            after += 1
        whole = (starts[number], starts[after] if after < len(found) else end)
        if ruler.count(*whole) <= max_tokens:
            yield whole
            number = after
        else:
            yield starts[number], starts[number + 1] if number + 1 < len(found) else end
            number += 1
