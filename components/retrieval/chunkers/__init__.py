"""The menu of chunkers: each file ``x.py`` holds the config class ``X`` and the callable ``x``.

``x(tokenizer, config)`` returns a function from a text to its spans: pieces by character position, in
order, none over the limit.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny, model_validator

from components.config import Config, Field
from components.data import menu

_FOLDER = "components.retrieval.chunkers"


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
    SerializeAsAny[ChunkerConfig], BeforeValidator(lambda values: menu.chosen(_FOLDER, values, "chunker"))
]


def chunker(tokenizer: Any, config: ChunkerConfig) -> Callable[[str], list[Span]]:
    """Return the chosen chunker, ready to cut texts; ``tokenizer`` is a ``tokenizers.Tokenizer``."""
    return menu.entry(_FOLDER, config.name)(tokenizer, config)
