"""Pieces cut where the topic changes: where sentences before and after a gap are least alike in meaning."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from components.config import Field, UserError
from components.retrieval.chunkers import ChunkerConfig, Embed, Place, Places
from components.retrieval.chunkers._sentences import sentence_places
from components.retrieval.chunkers._spans import Ruler, pack

if TYPE_CHECKING:
    import numpy as np


class Semantic(ChunkerConfig):
    """Pieces of one topic."""

    name: Literal["semantic"]
    window: int = Field(2, ge=1, description="sentences on each side of a gap that are compared")
    deviations: float = Field(
        0.5, description="a gap is a topic break if its depth passes the mean by so many standard deviations"
    )


def semantic(tokenizer: Any, config: Semantic, embed: Embed | None = None) -> Places:
    """Return the function that cuts a text; no piece spans a topic break, nor repeats anything across one.

    The depth of a gap is how far similarity falls into it from the peaks on both sides.
    Source: Hearst 1997, "TextTiling", section 5, on embeddings in place of word counts.

    Raises:
        UserError: there is no embedder.
    """
    if embed is None:
        raise UserError("the chunker 'semantic' compares sentences by meaning, and was handed no embedder")

    def places(text: str, name: str) -> list[Place]:
        sentences = sentence_places(text)
        ruler = Ruler(tokenizer, text)
        made: list[Place] = []
        start = 0
        for end in [*_breaks(text, sentences, config, embed), len(sentences)]:
            made += pack(sentences[start:end], ruler, config.max_tokens, config.overlap)
            start = end
        return made

    return places


def _breaks(text: str, sentences: Sequence[Place], config: Semantic, embed: Embed) -> list[int]:
    """Return the numbers of the sentences that open a new topic."""
    import numpy as np

    if len(sentences) < 3:
        return []
    vectors_ND = embed([text[start:end] for start, end in sentences])
    depths = gap_depths(_similarities(vectors_ND, config.window))
    threshold = depths.mean() + config.deviations * depths.std()
    return [int(gap) + 1 for gap in np.flatnonzero((depths > threshold) & (depths > 0))]


def _similarities(vectors_ND: "np.ndarray", window: int) -> "np.ndarray":
    """Return for each gap the cosine of the mean vectors of the sentences before and after it: [N - 1]."""
    import numpy as np

    found = []
    for gap in range(1, len(vectors_ND)):
        before, after = vectors_ND[max(0, gap - window) : gap].mean(0), vectors_ND[gap : gap + window].mean(0)
        scale = float(np.linalg.norm(before) * np.linalg.norm(after))
        found.append(float(before @ after) / scale if scale > 0 else 0.0)
    return np.array(found)


def gap_depths(similarities: "np.ndarray") -> "np.ndarray":
    """Return (left peak - s) + (right peak - s) of each gap; a peak is the top of the climb that begins at the gap."""
    import numpy as np

    depths = np.zeros(len(similarities))
    for step in (1, -1):
        peak = -np.inf
        before = -np.inf
        for place in range(len(similarities))[::step]:
            own = similarities[place]
            peak = peak if own <= before else own  # while it falls the peak stays, while it rises it goes along
            depths[place] += peak - own
            before = own
    return depths
