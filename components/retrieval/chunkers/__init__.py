"""The menu of chunkers: each file ``x.py`` holds the config class ``X`` and the callable ``x``.

``x(tokenizer, config, embed)`` returns a function from a text and its document's name to places, (start, end) in
characters. ``chunker`` makes spans of them that hold what all promise, whatever the text: in order, none within
another, without surrounding white space, none over the limit, none repeating more than it may, and together all of
the text but white space.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, model_validator

from components.config import Config, Field, Menu
from components.data import menu

if TYPE_CHECKING:
    import numpy as np

_FOLDER = "components.retrieval.chunkers"
Place = tuple[int, int]
Places = Callable[[str, str], Sequence[Place]]  # text, name of its document → where its pieces are
Embed = Callable[[Sequence[str]], "np.ndarray"]  # texts → unit vectors, float32 [len(texts), dimension]


@dataclass(frozen=True)
class Span:
    """``text[start:end]``, counted in characters, and how many tokens it has."""

    start: int
    end: int
    n_tokens: int


class ChunkerConfig(Config):
    """What every chunker's config has."""

    name: str = Field(description="which file of components/retrieval/chunkers cuts the documents")
    max_tokens: int = Field(200, ge=8, description="most tokens in a passage, counted by the embedder's tokenizer")
    overlap: int = Field(40, ge=0, description="most tokens that a passage repeats of the one before")

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> "ChunkerConfig":
        if self.overlap >= self.max_tokens:
            raise ValueError(f"overlap {self.overlap} must be smaller than max_tokens {self.max_tokens}")
        return self


Chunker = Annotated[
    SerializeAsAny[ChunkerConfig],
    BeforeValidator(lambda values: menu.chosen(_FOLDER, values, "chunker")),
    Menu(lambda: menu.configs(_FOLDER)),
]


def chunker(tokenizer: Any, config: ChunkerConfig, embed: Embed | None = None) -> Callable[..., list[Span]]:
    """Return the chosen chunker, ready to cut texts: a function of a text and, if known, its document's name.

    Args:
        tokenizer: a ``tokenizers.Tokenizer`` that neither truncates nor pads.
        embed: for the chunker that compares sentences by meaning; the others do not call it.

    Raises:
        UserError: there is no such chunker, or it needs an embedder and was given none.
    """
    from components.retrieval.chunkers._spans import Finisher

    places: Places = menu.entry(_FOLDER, config.name)(tokenizer, config, embed)
    finisher = Finisher(tokenizer, config.max_tokens, config.overlap)

    def cut(text: str, name: str = "") -> list[Span]:
        return finisher.spans(text, places(text, name)) if text.strip() else []

    return cut
