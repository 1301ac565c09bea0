"""Whole sentences, as many as fit."""

from typing import Any, Literal

from components.retrieval.chunkers import ChunkerConfig, Embed, Place, Places
from components.retrieval.chunkers._sentences import sentence_places
from components.retrieval.chunkers._spans import Ruler, pack


class Sentence(ChunkerConfig):
    """Pieces that begin and end with a sentence."""

    name: Literal["sentence"]


def sentence(tokenizer: Any, config: Sentence, embed: Embed | None = None) -> Places:
    """Return the function that cuts a text; a sentence that is too long by itself is cut by tokens."""

    def places(text: str, name: str) -> list[Place]:
        return pack(sentence_places(text), Ruler(tokenizer, text), config.max_tokens, config.overlap)

    return places
