"""What a model answers to the prompts of a round."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import Field
from components.data.chat import ChatTemplate
from components.models import engine
from components.models.engine import Draws, EngineConfig, Sampling

if TYPE_CHECKING:
    from components.data.generations import Answer


class SeveralDraws(Draws):
    """How the model answers: often enough for a best and a worst answer to differ."""

    n: int = Field(4, ge=2, description="answers per prompt")


def draw(
    rows: Sequence[Mapping[str, Any]],
    template: ChatTemplate,
    model: Path,
    sampling: Sampling,
    engines: EngineConfig,
    seed: int,
) -> "list[list[Answer]]":
    """Return the distinct answers to each row's prompt; needs a Ray session. Raises as ``engine.sample``."""
    from components.data.generations import distinct

    asked = [{"number": at, "prompt_ids": template.prompt_ids(row["prompt"])} for at, row in enumerate(rows)]
    replies: list[list[dict]] = [[] for _ in rows]
    for reply in engine.sample(asked, model, sampling, engines, seed=seed):
        replies[reply["number"]].append(reply)
    return [distinct(own) for own in replies]
