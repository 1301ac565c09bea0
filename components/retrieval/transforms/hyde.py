"""Searches for passages that look like an answer: an invented one is nearer to them than the question is."""

from typing import Literal

from components.config import Field
from components.retrieval.transforms import ModelTransformConfig, Probe, Tools, ask


class Hyde(ModelTransformConfig):
    """A hypothetical answer by a language model."""

    name: Literal["hyde"]
    weight: float = Field(1.0, gt=0, description="weight of the invented answer, where the question itself has 1")


def hyde(query: str, tools: Tools, config: Hyde) -> list[Probe]:
    """Return the query and an invented answer, of which only the meaning is searched: its facts may be wrong.

    Source: Gao et al. 2022, "Precise Zero-Shot Dense Retrieval without Relevance Labels".
    """
    invented = ask(
        tools, config.name, f"Write one short paragraph of a document that answers this question.\nQuestion: {query}"
    )
    itself = Probe(query, query)
    if not invented.strip():
        return [itself]
    return [itself, Probe(None, invented.strip(), as_document=True, weight=config.weight)]
