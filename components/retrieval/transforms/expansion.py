"""Adds words that the best passages have in common: feedback from the index itself, no language model."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from components.config import Field
from components.data.english import STOP_WORDS
from components.retrieval.transforms import Probe, Tools, TransformConfig

_WORD = re.compile(r"[A-Za-z][A-Za-z-]{2,}")


class Expansion(TransformConfig):
    """Pseudo-relevance feedback."""

    name: Literal["expansion"]
    passages: int = Field(8, ge=1, description="best passages by BM25, taken for relevant")
    words: int = Field(12, ge=1, description="words that are added")
    weight: float = Field(0.5, gt=0, description="weight of the longer query, where the query itself has 1")


def expansion(query: str, tools: Tools, config: Expansion) -> list[Probe]:
    """Return the query itself, and the query with the words that stand out in the passages it finds."""
    itself = Probe(query, query)
    added = feedback_words(query, tools.by_words(query, config.passages), config.words)
    return [itself, Probe(" ".join([query, *added]), None, weight=config.weight)] if added else [itself]


def feedback_words(query: str, passages: Sequence[Mapping[str, Any]], n: int) -> list[str]:
    """Return up to ``n`` words that the query lacks, the likeliest in a relevant text first.

    P(w | relevant) is the sum over passages of P(w | passage) * P(passage | query): a word's share of the passage, and
    the passage's share of all BM25 scores. A word has to be in two passages at least, or there is only one.
    Source: Lavrenko, Croft 2001, "Relevance-Based Language Models", model 1 (RM1); as RM3, the query's own words
    are kept: they are searched on their own besides.
    """
    asked = {word.lower() for word in _WORD.findall(query)}
    total = sum(row["score"] for row in passages)
    likely: Counter[str] = Counter()
    seen_in: Counter[str] = Counter()
    for row in passages:
        counts = Counter(word for word in map(str.lower, _WORD.findall(row["text"])) if word not in STOP_WORDS)
        size = sum(counts.values())
        for word, count in counts.items():
            likely[word] += count / size * row["score"] / total
            seen_in[word] += 1
    enough = min(2, len(passages))
    kept = [word for word in likely if word not in asked and seen_in[word] >= enough]
    return sorted(kept, key=lambda word: (-likely[word], word))[:n] if math.isfinite(total) else []
