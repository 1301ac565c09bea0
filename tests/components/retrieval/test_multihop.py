"""Two-hop questions from the standard library's documentation, and a walk that answers more of them than words do."""

import json
import math
import re
from collections import Counter

import pytest

from components.data.sources import list_parts, read_part
from components.data.sources.python_docs import PythonDocs
from components.retrieval.graph import Graph, named
from components.retrieval.measure import paired, per_query
from components.retrieval.multihop import TwoHop, two_hops

MODULES = ["shutil", "tempfile", "pathlib", "threading", "subprocess", "collections", "functools", "json", "logging"]


def _row(symbol: str, text: str, kind: str = "function") -> dict:
    shared = {"passage_id": symbol, "symbol": symbol, "group": symbol.rpartition(".")[0], "start": 0}
    return shared | {"title": symbol, "text": f"{symbol}()\n\n{text}", "metadata": json.dumps({"kind": kind})}


def test_a_question_asks_for_what_another_passage_refers_to() -> None:
    rows = [
        _row("m.walk_all", "Visit every entry of a folder. Uses `visit_one` for each."),
        _row("m.visit_one", "Open a single entry and report its size."),
        _row("m.alone", "Close the whole thing without more ado."),
    ]
    found = two_hops(rows, 10, seed=0)
    assert [(hop.kind, hop.first, hop.second) for hop in found] == [
        ("named", "m.walk_all", "m.visit_one"),
        ("described", "m.walk_all", "m.visit_one"),
    ]
    assert "`m.walk_all`" in found[0].question and "walk_all" not in found[1].question
    assert not any("visit_one" in hop.question for hop in found)
    assert found[1].question.startswith("One function of `m` visits every entry of a folder.")


def test_what_refers_to_several_or_to_a_name_of_several_is_not_asked_about() -> None:
    two = _row("m.walk_all", "Visit every entry. Uses `visit_one` and `visit_two`.")
    shared = _row("m.walk_all", "Visit every entry. Uses `visit_one`.")
    others = [_row("m.visit_one", "Open one entry there."), _row("m.visit_two", "Open two entries there.")]
    assert two_hops([two, *others], 10, seed=0) == []
    assert two_hops([shared, *others, _row("n.visit_one", "Another one of that name.")], 10, seed=0) == []


@pytest.fixture(scope="module")
def passages() -> list[dict]:
    rows = []
    for part in list_parts(PythonDocs(name="python_docs", modules=MODULES)):
        if "error" not in part:
            for document in read_part("python_docs", part):
                rows.append(document.row() | {"passage_id": document.doc_id, "start": 0})
    return rows


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text.lower().replace("_", " "))


class Bm25:
    """Okapi BM25 with k1 = 1.2 and b = 0.75, written down from its formula."""

    def __init__(self, rows: list[dict]) -> None:
        self.counts = {row["passage_id"]: Counter(_words(row["text"])) for row in rows}
        self.sizes = {key: sum(counts.values()) for key, counts in self.counts.items()}
        self.mean = sum(self.sizes.values()) / len(rows)
        self.holders = Counter(word for counts in self.counts.values() for word in counts)

    def rank(self, query: str, n: int) -> list[str]:
        scores: Counter[str] = Counter()
        for word in set(_words(query)):
            held = self.holders[word]
            rarity = math.log(1 + (len(self.counts) - held + 0.5) / (held + 0.5))
            for key, counts in self.counts.items():
                if held and (count := counts[word]):
                    scores[key] += rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * self.sizes[key] / self.mean))
        return [key for key, _ in scores.most_common(n)]


def test_a_walk_finds_more_of_both_passages_than_words_do(passages: list[dict]) -> None:
    hops: list[TwoHop] = two_hops(passages, 60, seed=0)
    assert len(hops) >= 30 and {hop.kind for hop in hops} == {"named", "described"}
    words, graph = Bm25(passages), Graph([named(row) for row in passages])
    plain = {str(n): words.rank(hop.question, 30) for n, hop in enumerate(hops)}
    walked = {
        str(n): [key for key, _ in graph.rank(hop.question, {key: 1 / r for r, key in enumerate(plain[str(n)], 1)}, 30)]
        for n, hop in enumerate(hops)
    }
    grades = {str(n): {hop.first: 1, hop.second: 1} for n, hop in enumerate(hops)}
    recall = [per_query(grades, rankings, 10)["recall@10"] for rankings in (walked, plain)]
    gain = paired(*recall)
    print(
        {name: sum(values.values()) / len(values) for name, values in zip(("walk", "words"), recall, strict=True)}, gain
    )
    assert gain["low"] > 0.05
