"""Ways of searching side by side: what is chosen, on which questions, and what those that chose nothing say."""

from types import SimpleNamespace

import pytest

from components.config import UserError
from components.data.split import split_of
from components.retrieval.compare import compare, ids_of, metrics, usual_modes
from components.retrieval.settings import RetrieveConfig

QUERIES = {str(number): f"question {number}" for number in range(40)}
GRADES = {query: {f"right {query}": 1} for query in QUERIES}
FIT = {query for query, text in QUERIES.items() if split_of(text, 0.5, "fit0") == "test"}


class Scripted:
    """Searches by a script: (config, number of the question) → rank of the right document, from 1."""

    def __init__(self, script, config=None, reranker=None):
        self.script, self.config, self.reranker = script, config, reranker

    def with_config(self, config, reranker=None):
        """As a Retriever does: a reranker is handed in, or that of the same way of searching is kept."""
        known = self.reranker if self.config and self.config.rerank == config.rerank else None
        assert config.rerank is None or reranker or known
        return Scripted(self.script, config, reranker or known)

    def search(self, text, k):
        number = text.rpartition(" ")[2]
        place = self.script(self.config, number)
        ids = [f"wrong {n}" for n in range(k)]
        ids.insert(place - 1, f"right {number}")
        return [SimpleNamespace(doc_id=each, passage_id=each) for each in ids[:k]]


def test_the_best_on_all_is_chosen_and_one_part_says_what_choosing_is_worth() -> None:
    """text: first wherever it is fitted, and 30th (not found) elsewhere; dense: second everywhere."""

    def script(config, number):
        return (1 if number in FIT else 30) if config.mode == "text" else 2

    ways = {"text": RetrieveConfig(mode="text"), "dense": RetrieveConfig(mode="dense")}
    found = compare(Scripted(script), ways, QUERIES, GRADES, 10)
    share = len(FIT) / 40
    assert 0.25 < share < 0.63  # so that 1 * share is less than 1 / log2(3), dense's nDCG
    assert (found.fit_choice, found.chosen) == ("text", "dense")
    assert found.held_out["text"]["mrr@10"]["mean"] == 0.0
    assert found.held_out["dense"]["mrr@10"] == {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 40 - len(FIT)}
    assert found.figures["text"]["mrr@10"]["mean"] == pytest.approx(share)
    gap = found.figures["dense"]["ndcg@10"]["mean"] - found.figures["text"]["ndcg@10"]["mean"]
    assert set(found.differences) == {"text"}
    assert gap > 0 and found.differences["text"]["mean"] == pytest.approx(gap)


def test_the_weight_is_fitted_on_the_same_part_only() -> None:
    """Where it is fitted 0.7 is right, elsewhere 0.2 would be."""

    def script(config, number):
        return 1 + round(10 * abs(config.dense_weight - (0.7 if number in FIT else 0.2)))

    found = compare(Scripted(script), {"weighted": RetrieveConfig(fusion="weighted")}, QUERIES, GRADES, 10)
    assert found.configs["weighted"].dense_weight == 0.7
    assert found.held_out["weighted"]["mrr@10"]["mean"] == pytest.approx(1 / 6)


def test_a_fusion_that_is_reranked_is_fitted_with_its_reranker() -> None:
    way = RetrieveConfig(fusion="weighted", rerank="some/model")
    found = compare(Scripted(lambda *_: 1), {"weighted": way}, QUERIES, GRADES, 10, rerankers={"some/model": object()})
    assert found.configs["weighted"].rerank == "some/model"


def test_summaries_take_no_place_in_a_ranking() -> None:
    ids = ["community:1", "community:2", "a", "b", "a"]
    assert ids_of([SimpleNamespace(doc_id=each, passage_id=each) for each in ids], "doc_id") == ["a", "b"]


def test_every_usual_way_has_figures_that_mlflow_takes() -> None:
    ways = usual_modes("some/model")
    found = compare(Scripted(lambda *_: 1), ways, QUERIES, GRADES, 10, rerankers={"some/model": object()})
    assert {"text", "dense", "hybrid", "weighted", "hybrid_rerank"} <= set(found.figures)
    names = metrics(found.figures)
    assert names["hybrid/ndcg_at_10"] == 1.0 and "hybrid_mmr/p95_ms" in names
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789_/") for name in names)


def test_too_few_questions_are_refused() -> None:
    with pytest.raises(UserError, match="1 queries are too few"):
        compare(Scripted(lambda *_: 1), usual_modes(), {"0": "question 0"}, {"0": GRADES["0"]}, 10)
