"""Contexts: a few similar passages that prompts show together, and some more that are withheld.

No passage is in two contexts, so contexts are what train and test are split by and what the bootstrap draws.
"""

import json
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.config import Config, Field
from components.data.grounding import shown
from components.data.judge import content_words
from components.data.sentences import Ask, clip, prose_asks, sentences, symbol_asks

if TYPE_CHECKING:
    import numpy as np

_TOO_CLOSE = 0.97  # cosine: such passages say the same


class QuestionConfig(Config):
    """How questions are made from passages."""

    shown_passages: int = Field(3, ge=2, le=9, description="passages in a prompt")
    passage_words: int = Field(45, ge=10, description="longest passage in a prompt, in words, by whole sentences")
    withheld_passages: int = Field(2, ge=1, le=9, description="similar passages that questions ask for in vain")
    per_context: int = Field(4, ge=1, le=8, description="questions over the same passages")
    answerable_share: float = Field(0.55, gt=0, lt=1, description="share of questions that have an answer")
    cut_share: float = Field(0.6, ge=0, le=1, description="share of contexts with a passage cut to one sentence")
    test_share: float = Field(0.35, gt=0, lt=1, description="share of contexts that no training may see")
    split_salt: str = Field("", description="another value gives another split")


@dataclass(frozen=True)
class Fact:
    """A passage that questions can be asked about."""

    passage_id: str
    name: str  # its symbol, else its title
    source: str
    group: str
    parts: tuple[str, ...]  # its sentences, as far as prompts show them
    asks: tuple[Ask, ...]
    is_symbol: bool
    vector: "np.ndarray"  # unit length

    def shown(self, n_parts: int | None = None) -> str:
        """The passage as prompts show it, or only its first sentences."""
        return shown(" ".join(self.parts[:n_parts]), self.name)


@dataclass(frozen=True)
class Context:
    """Passages shown together in this order, some withheld, and the index of the one cut to a sentence."""

    shown: tuple[Fact, ...]
    withheld: tuple[Fact, ...]
    cut: int | None

    def texts(self) -> list[str]:
        """The passages as the prompt shows them."""
        return [fact.shown(1 if i == self.cut else None) for i, fact in enumerate(self.shown)]


def usable_facts(passages: Sequence[Mapping[str, Any]], max_words: int) -> list[Fact]:
    """The passages that open with prose and say something that no earlier one said."""
    import numpy as np

    passages = _disjoint(passages)
    parsed = [(row, clip(sentences(_body(row), opening=bool(row["symbol"])), max_words)) for row in passages]
    parsed = [(row, parts) for row, parts in parsed if parts and len(content_words(parts[0])) >= 3]
    parsed.sort(key=lambda pair: pair[0]["passage_id"])
    seen: set[str] = set()
    frequency = Counter(word for _, parts in parsed for word in {w.lower() for p in parts for w in p.split()})
    facts = []
    for row, parts in parsed:
        opening = " ".join(sorted(content_words(parts[0])))
        if opening in seen:
            continue
        seen.add(opening)
        vector = np.asarray(row["vector"], dtype=np.float32)
        asks = _asks(row, parts, frequency, len(parsed))
        facts.append(
            Fact(
                row["passage_id"],
                row["symbol"] or row["title"] or "",
                row["source"],
                row["group"] or "",
                tuple(parts),
                tuple(asks),
                bool(row["symbol"]),
                vector / max(float(np.linalg.norm(vector)), 1e-9),
            )
        )
    return facts


def make_contexts(facts: Sequence[Fact], config: QuestionConfig, rng: random.Random) -> list[Context]:
    """Disjoint contexts of similar passages: first within each group, then among what is left over."""
    groups: dict[str, list[Fact]] = {}
    for fact in facts:
        groups.setdefault(fact.group, []).append(fact)
    contexts: list[Context] = []
    leftover: list[Fact] = []
    for name in sorted(groups):
        made, rest = _gather(groups[name], config, rng)
        contexts += made
        leftover += rest
    contexts += _gather(leftover, config, rng)[0]
    rng.shuffle(contexts)
    return contexts


def _disjoint(passages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Passages of which no two share text, as overlapping chunks do: that would leak from test to train.

    Of what documents a symbol only the opening is kept, as what follows does not say what the symbol is.
    """
    kept: list[Mapping[str, Any]] = []
    for row in sorted(passages, key=lambda row: (row["doc_id"], row["start"])):
        follows = bool(kept) and kept[-1]["doc_id"] == row["doc_id"]
        if not (follows and row["start"] < kept[-1]["end"]) and not (row["symbol"] and row["start"] > 0):
            kept.append(row)
    return kept


def _body(row: Mapping[str, Any]) -> str:
    """The passage's text without the title or symbol that it may repeat at its head."""
    text = row["text"].strip()
    for head in (row["symbol"], row["title"]):
        if head and text.startswith(head):
            rest = text[len(head) :].lstrip()
            if rest[:1] in (":", "\n", "—", "-") or text[len(head)] == "\n":
                return rest.lstrip(":—- \n")
    return text


def _asks(row: Mapping[str, Any], parts: list[str], frequency: Counter[str], total: int) -> list[Ask]:
    """The questions that one passage can answer."""
    if row["symbol"]:
        kind = json.loads(row["metadata"] or "{}").get("kind", "name")
        noun = kind if kind in ("function", "method", "class", "module") else "name"
        return symbol_asks(row["symbol"], noun, row["group"] or "", parts)

    def rarity(word: str) -> float:
        return math.log(total / frequency[word]) if frequency[word] > 1 else 0.0

    return prose_asks(row["title"] or "", parts, rarity)


def _gather(facts: list[Fact], config: QuestionConfig, rng: random.Random) -> tuple[list[Context], list[Fact]]:
    """Contexts of nearest neighbours, and the facts that were too few or too alike for another one."""
    import numpy as np

    size = config.shown_passages + config.withheld_passages
    pool = list(facts)
    rng.shuffle(pool)
    contexts, rest = [], []
    while len(pool) >= size:
        first = pool.pop()
        similarity = np.stack([fact.vector for fact in pool]) @ first.vector
        near: list[int] = [int(i) for i in np.argsort(-similarity, kind="stable") if similarity[i] < _TOO_CLOSE]
        if len(near) < size - 1:
            rest.append(first)
            continue
        members = [first, *(pool[i] for i in near[: size - 1])]
        pool = [fact for i, fact in enumerate(pool) if i not in set(near[: size - 1])]
        rng.shuffle(members)
        together, withheld = members[: config.shown_passages], members[config.shown_passages :]
        longer = [i for i, fact in enumerate(together) if any(ask.position for ask in fact.asks)]
        cut = rng.choice(longer) if longer and rng.random() < config.cut_share else None
        contexts.append(Context(tuple(together), tuple(withheld), cut))
    return contexts, rest + pool
