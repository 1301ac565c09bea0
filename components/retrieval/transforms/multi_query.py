"""Asks the question in several ways: what one wording misses another finds."""

from typing import Literal

from components.config import Field
from components.retrieval.transforms import ModelTransformConfig, Probe, Tools, ask, lines


class MultiQuery(ModelTransformConfig):
    """Wordings by a language model."""

    name: Literal["multi_query"]
    wordings: int = Field(3, ge=1, le=10, description="other wordings that are searched beside the question")


def multi_query(query: str, tools: Tools, config: MultiQuery) -> list[Probe]:
    """Return the query and other wordings of it."""
    answer = ask(
        tools,
        config.name,
        f"Write {config.wordings} other ways to ask this question, each on its own line, nothing else.\n"
        f"Question: {query}",
    )
    return [Probe(text, text) for text in dict.fromkeys([query, *lines(answer, config.wordings)])]
