"""Pieces of at most so many tokens, cut at the best boundary that fits: paragraph, line, sentence, word."""

import re
from typing import Any, Literal

from components.retrieval.chunkers import ChunkerConfig, Embed, Place, Places
from components.retrieval.chunkers._spans import chunk_with

# One line that ends like a title or a signature, and the blank line after it.
_HEADING = re.compile(r"^(?=\S)([^\n]*[^\n.!?,;:\s])[ \t]*\n[ \t]*\n(?=[^\n])", re.MULTILINE)


class Tokens(ChunkerConfig):
    """Token-counted pieces with overlap."""

    name: Literal["tokens"] = "tokens"


def tokens(tokenizer: Any, config: Tokens, embed: Embed | None = None) -> Places:
    """Return the function that cuts a text. A heading stays with what follows it where both fit."""
    from semantic_text_splitter import TextSplitter

    splitter = TextSplitter.from_huggingface_tokenizer(tokenizer, config.max_tokens, overlap=config.overlap)

    def places(text: str, name: str) -> list[Place]:
        return chunk_with(splitter, _without_breaks_after_headings(text))

    return places


def _without_breaks_after_headings(text: str) -> str:
    """Return the text at the same length, where the blank line after a heading is no paragraph break."""
    return _HEADING.sub(lambda found: (found[0].rstrip() + "\n").ljust(len(found[0])), text)
