"""Questions that need two passages, made from documentation: one is named or described, the other only referred to.

"What does the function do that `shutil.copytree` refers to?" needs copytree's passage to know which one is meant and
the other's to answer; nothing in the question looks like the second one.
"""

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.data.sentences import description, mentions, sentences
from components.retrieval.entities import entities, forms

_NOUNS = ("function", "method", "class")


@dataclass(frozen=True)
class TwoHop:
    """A question, the passage that it starts from, and the one that holds the answer."""

    question: str
    kind: str  # named | described
    first: str  # passage_id
    second: str


def two_hops(passages: Sequence[Mapping[str, Any]], n: int, seed: int) -> list[TwoHop]:
    """Return up to ``n`` questions over passages of documented symbols, half of them without the first one's name.

    A passage is asked about only if it refers to exactly one other symbol that has a passage, by a name that no third
    one has, and does not describe itself with that one's words.
    """
    opening = [row for row in passages if row["symbol"] and row["start"] == 0]
    counts = Counter(form for row in opening for form in forms(row["symbol"]))
    owners = {form: row for row in opening for form in forms(row["symbol"]) if counts[form] == 1}
    found = []
    for row in sorted(opening, key=lambda row: row["passage_id"]):
        own = forms(row["symbol"])
        others = {owners[name]["passage_id"]: owners[name] for name in entities(row["text"]) - own if name in owners}
        others.pop(row["passage_id"], None)
        if len(others) == 1:
            found += _questions(row, next(iter(others.values())))
    rng = random.Random(seed)
    rng.shuffle(found)
    kept: list[TwoHop] = []
    for kind in ("named", "described"):
        of_kind = {question.first: question for question in found if question.kind == kind}
        kept += list(of_kind.values())[: n // 2]
    return kept


def _questions(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[TwoHop]:
    noun, other = _noun(first), _noun(second)
    if noun is None or other is None or mentions(second["symbol"], first["symbol"]):
        return []
    ids = (first["passage_id"], second["passage_id"])
    what = f"What does the {other} do" if other != "class" else "What is the class"
    asked = [TwoHop(f"{what} that the documentation of `{first['symbol']}` refers to?", "named", *ids)]
    prose = sentences(first["text"].partition("\n")[2])
    described = description(prose[0], noun) if prose else None
    if described and first["group"] and not mentions(second["symbol"], described):
        asked.append(
            TwoHop(f"One {noun} of `{first['group']}` {described}. {what} that it refers to?", "described", *ids)
        )
    return asked


def _noun(row: Mapping[str, Any]) -> str | None:
    kind = json.loads(row["metadata"] or "{}").get("kind")
    return kind if kind in _NOUNS else None
