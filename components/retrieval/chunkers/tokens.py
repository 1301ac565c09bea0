"""Pieces of at most so many tokens, cut at the best boundary that fits: paragraph, line, sentence, word."""

import re
from collections.abc import Callable
from typing import Any, Literal

from components.retrieval.chunkers import ChunkerConfig, Span

# One line that ends like a title or a signature, and the blank line after it.
_HEADING = re.compile(r"^(?=\S)([^\n]*[^\n.!?,;:\s])[ \t]*\n[ \t]*\n(?=[^\n])", re.MULTILINE)


class Tokens(ChunkerConfig):
    """Token-counted pieces with overlap."""

    name: Literal["tokens"] = "tokens"


def tokens(tokenizer: Any, config: Tokens) -> Callable[[str], list[Span]]:
    """Return a function that cuts a text; its spans have no surrounding white space, white space alone has none.

    A heading stays with what follows it where both fit.
    """
    from semantic_text_splitter import TextSplitter

    splitter = TextSplitter.from_huggingface_tokenizer(tokenizer, config.max_tokens, overlap=config.overlap)

    def cut(text: str) -> list[Span]:
        pieces = splitter.chunk_indices(_without_breaks_after_headings(text))
        places = [(start, start + len(piece)) for start, piece in pieces]
        encoded = tokenizer.encode_batch([text[start:end] for start, end in places], add_special_tokens=False)
        return [Span(start, end, len(one.ids)) for (start, end), one in zip(places, encoded, strict=True)]

    return cut


def _without_breaks_after_headings(text: str) -> str:
    """Return the text at the same length, where the blank line after a heading is no paragraph break."""
    return _HEADING.sub(lambda found: (found[0].rstrip() + "\n").ljust(len(found[0])), text)
