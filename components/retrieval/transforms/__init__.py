"""The menu of query transforms: each file ``x.py`` holds the config class ``X`` and the callable ``x``.

``x(query, tools, config)`` returns what to search for in the query's place: probes, whose rankings are fused.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny

from components.config import Config, Field, Menu, UserError
from components.data import menu
from components.retrieval.generator import Generate, LanguageModel

_FOLDER = "components.retrieval.transforms"


@dataclass(frozen=True)
class Probe:
    """One thing to search for; a side that is None is not searched."""

    words: str | None  # by BM25
    meaning: str | None  # by its vector
    as_document: bool = False  # embed the meaning as a passage is embedded, not as a question
    weight: float = 1.0  # of its rankings in the fusion


@dataclass(frozen=True)
class Tools:
    """What transforms may use."""

    by_words: Callable[[str, int], list[dict[str, Any]]]  # the best passages by BM25, as rows
    generate: Generate | None  # None: no language model is at hand


class TransformConfig(Config):
    """What every transform's config has."""

    name: str = Field(description="which file of components/retrieval/transforms makes the probes")


class ModelTransformConfig(TransformConfig):
    """What every transform's config has that asks a language model."""

    language_model: LanguageModel | None = Field(None, description="what is asked; none: what the workflow names")


Transform = Annotated[
    SerializeAsAny[TransformConfig],
    BeforeValidator(lambda values: menu.chosen(_FOLDER, values, "transform")),
    Menu(lambda: menu.configs(_FOLDER)),
]


def transformed(query: str, tools: Tools, config: TransformConfig) -> list[Probe]:
    """Return the probes of the chosen transform."""
    return menu.entry(_FOLDER, config.name)(query, tools, config)


def ask(tools: Tools, transform: str, instruction: str) -> str:
    """Return what the language model answers. Raises UserError where there is none."""
    if tools.generate is None:
        raise UserError(
            f"the transform '{transform}' asks a language model, and none was given: name its "
            "language_model, or choose expansion or none"
        )
    return tools.generate(instruction)


def lines(answer: str, n: int) -> list[str]:
    """Return up to ``n`` different lines of a model's answer, without numbers and bullets before them."""
    cleaned = (line.strip().lstrip("-*•0123456789.) ").strip().strip('"') for line in answer.splitlines())
    return [line for line in dict.fromkeys(cleaned) if line and not line.endswith(":")][:n]
