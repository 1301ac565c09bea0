"""Splits a question into simpler ones, each of which one passage can answer."""

from typing import Literal

from components.config import Field
from components.retrieval.transforms import ModelTransformConfig, Probe, Tools, ask, lines


class Decomposition(ModelTransformConfig):
    """Sub-questions by a language model."""

    name: Literal["decomposition"]
    parts: int = Field(3, ge=1, le=10, description="sub-questions that are searched beside the question")


def decomposition(query: str, tools: Tools, config: Decomposition) -> list[Probe]:
    """Return the query and its sub-questions."""
    answer = ask(
        tools,
        config.name,
        f"Split this question into at most {config.parts} simpler questions, each on its own line, nothing else. "
        f"If it is simple already, repeat it.\nQuestion: {query}",
    )
    return [Probe(text, text) for text in dict.fromkeys([query, *lines(answer, config.parts)])]
