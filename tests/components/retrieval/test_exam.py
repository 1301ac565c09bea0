"""The exam's parts on a real LanceDB: its questions, its index against exact search, its verdict."""

from pathlib import Path

import numpy as np
import pytest

from components.config import UserError
from components.data import search, store
from components.retrieval import exam, facts
from components.retrieval.exam import ExamConfig
from components.retrieval.exam_questions import Asked
from components.retrieval.settings import RetrieveConfig
from tests.components.retrieval.made_up_index import DIMENSION, make_index


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_index(str(tmp_path_factory.mktemp("db")), 100)


def test_the_kind_of_index_goes_by_size() -> None:
    assert [exam.index_for(n) for n in (10, 49_999, 50_000, 10_000_000)] == [None, None, "ivf_sq", "ivf_rq"]
    assert [exam.cells_for(n) for n in (10, 50_000, 1_000_000)] == [1, 12, 244]


def test_an_index_is_measured_against_exact_search(tmp_path: Path) -> None:
    """Random vectors have no cells: of 64, the 16 that are searched hold about a quarter, and more than none."""
    ref = make_index(str(tmp_path), 1500)
    vectors = np.random.default_rng(1).normal(size=(12, DIMENSION)).tolist()
    assert search.vector_index(ref) is None
    assert exam.against_exact(store.open_table(ref), vectors, 10) == 1.0
    indexed = search.create_vector_index(ref, 64, "ivf_sq")
    assert search.vector_index(indexed) == search.FoundIndex("ivf_sq", 0)
    poor = exam.against_exact(store.open_table(indexed), vectors, 10)
    whole = exam.against_exact(store.open_table(search.create_vector_index(ref, 4, "ivf_sq")), vectors, 10)
    assert 0.3 < poor < 0.98 < whole


def test_an_index_of_bits_is_refined_more(tmp_path: Path) -> None:
    """A bit for each of 16 numbers says little: without the vectors themselves few of the nearest would be found."""
    ref = make_index(str(tmp_path), 1500)
    vectors = np.random.default_rng(1).normal(size=(12, DIMENSION)).tolist()
    table = store.open_table(search.create_vector_index(ref, 1, "ivf_rq"))
    assert search.refinement(table) == 50 and search.refinement(store.open_table(ref)) == 10
    exact = [{row["passage_id"] for row in search.search_vector(table, vector, 10)} for vector in vectors]
    coarse = [{row["passage_id"] for row in search.search_vector(table, vector, 10, refine=1)} for vector in vectors]
    plain = sum(len(own & true) for own, true in zip(coarse, exact, strict=True)) / 120
    assert plain < 0.8 < 0.95 < exam.against_exact(table, vectors, 10)


def test_a_poor_index_and_a_drop_fail_with_their_figures() -> None:
    record = {"recall_of_exact": 0.43, "vector_index": "IVF_PQ"}
    drop = {"mean": 0.05, "low": 0.01, "high": 0.09, "n": 100}
    reasons = exam.failures(record, drop, ExamConfig())
    assert len(reasons) == 2 and "finds 0.430 of what exact search finds" in reasons[0] and "0.0500" in reasons[1]
    assert exam.failures({**record, "recall_of_exact": 1.0}, None, ExamConfig()) == []
    assert exam.failures({**record, "recall_of_exact": 1.0}, {**drop, "mean": 0.03}, ExamConfig()) == []


class Finds:
    """A way of searching that finds a question's own document at the same rank always."""

    def __init__(self, index: str, place: int) -> None:
        self.index, self._place = index, place

    def search(self, question: str, k: int) -> list:
        ids = [f"wrong{n}" for n in range(k)]
        ids.insert(self._place - 1, question)  # in this test a question is its document's name
        return [type("Hit", (), {"doc_id": each, "passage_id": each}) for each in ids[:k]]


def test_a_version_is_compared_with_the_one_in_use_on_documents_of_both(index: str, tmp_path: Path) -> None:
    """At rank 1 nDCG is 1, at rank 3 it is 1 / log2(4) = 0.5; the drop is 0.5."""
    names = [row["doc_id"] for row in store.read(index)][:8]
    asked = {str(n): Asked(name, name, name, "what") for n, name in enumerate([*names, "only here"])}
    drop = exam.worse_than(Finds(index, 3), Finds(index, 1), asked, 10)
    assert drop == {"mean": 0.5, "low": 0.5, "high": 0.5, "n": 8}
    with pytest.raises(UserError, match="share no document"):
        exam.worse_than(Finds(index, 1), Finds(index, 1), {"0": Asked("x", "x", "x", "what")}, 10)


def test_what_was_chosen_is_read_from_the_version(index: str) -> None:
    with pytest.raises(UserError, match=r"has sat no exam.*workflows\.exam_index"):
        exam.chosen_config(index)
    config = RetrieveConfig(fusion="weighted", dense_weight=0.3)
    facts.write(index, exam.KIND, {"config": config.model_dump(mode="json")})
    assert exam.chosen_config(index) == config
