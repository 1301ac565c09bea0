"""Hard negatives: passages that a search takes for the answer, as far as they surely are not.

Nobody has said which passages do not answer a question. What looks more like it than its answer does may be an answer
that nobody marked, and a model that learns to rank it low learns the wrong thing.

Shapes: D numbers of a vector.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from components.config import Config, Field

if TYPE_CHECKING:
    import numpy as np


class NegativesConfig(Config):
    """Which passages a question is taught not to find."""

    per_question: int = Field(7, ge=1, description="passages beside each question's answer, the hardest first")
    drawn: int = Field(
        0,
        ge=0,
        description="how many of per_question are drawn from what other questions found: where all the hardest are "
        "about one subject, a model learns nothing of another's, which a search brings, too",
    )
    depth: int = Field(50, ge=1, description="passages that are searched for each question, to choose from")
    margin: float = Field(
        0.05,
        ge=-2,
        le=2,
        description="cosine by which a passage must be further from the question than the answer is, as it may "
        "answer it, too; -2 lets all pass",
    )
    max_likeness: float = Field(
        0.95, ge=-1, le=1, description="cosine to an answer above which a passage says the same; 1 lets all pass"
    )


def choose(
    found: Sequence[str],
    answers: Collection[str],
    query_D: "np.ndarray",
    vectors: Mapping[str, "np.ndarray"],
    config: NegativesConfig,
    n: int,
) -> list[str]:
    """Return up to ``n`` of the passages ``found``, in their order, that surely do not answer.

    Args:
        found: ids, the hardest first.
        answers: ids of the passages that answer the question.
        query_D: the question's unit vector.
        vectors: id → unit vector, of all that was found and of the answers.

    Source: "TopK-MarginPos" of Moreira et al. 2024 (arXiv 2407.15831), section 3.
    """
    bound = max(float(query_D @ vectors[answer]) for answer in answers) - config.margin
    chosen: list[str] = []
    for passage in dict.fromkeys(found):
        if len(chosen) == n:
            break
        if passage in answers or float(query_D @ vectors[passage]) > bound:
            continue
        if max(float(vectors[passage] @ vectors[answer]) for answer in answers) <= config.max_likeness:
            chosen.append(passage)
    return chosen
