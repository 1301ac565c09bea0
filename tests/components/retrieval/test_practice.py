"""An index to train on: rows as trainings read them, and what is kept of what was trained."""

from pathlib import Path

import numpy as np
import pytest

from components.config import UserError
from components.data import store
from components.models.query_adapter import QueryAdapter
from components.models.sources import digest
from components.retrieval import practice
from components.retrieval.embed import Embedder
from components.retrieval.exercises import AskConfig
from components.retrieval.negatives import NegativesConfig
from components.retrieval.practice import Practice
from components.retrieval.settings import RetrieveConfig
from tests.components.retrieval import editions

D = 32
ALL_PASS = NegativesConfig(margin=-2, max_likeness=1, per_question=3, depth=8)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return editions.make_embedder(tmp_path_factory.mktemp("embedder"))


def rotation() -> np.ndarray:
    turned, _ = np.linalg.qr(np.random.default_rng(5).normal(size=(D, D)))
    return turned.astype(np.float32)


def turned_questions(model: Embedder, rows: list[dict]) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(len(rows), D))
    for number, row in enumerate(rows):
        if row["passage_id"].endswith(":current"):
            vectors[number] = rotation() @ model.query(editions.question_of(row["title"]))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def turned(embedder: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index in which an answer's vector is its question's, turned: only a query that is turned as well finds it."""
    return editions.make_index(str(tmp_path_factory.mktemp("db")), embedder, turned_questions)


def prepared(index: str, embedder: Path, folder: Path, **retrieve) -> Practice:
    folder.mkdir(exist_ok=True)
    ask = AskConfig(table=editions.make_questions(index.partition("#")[0], folder.name), test_share=0.4)
    way = RetrieveConfig(**retrieve)
    return practice.prepare(index, embedder, way, ask, ALL_PASS, run_dir=folder, seed=0)


def adapter(folder: Path, matrix: np.ndarray, embedder: str) -> Path:
    QueryAdapter(matrix.astype(np.float32), embedder).write(folder)
    return folder


def test_texts_are_those_that_a_reranker_reads_answers_first(turned: str, embedder: Path, tmp_path: Path) -> None:
    made = prepared(turned, embedder, tmp_path / "texts", mode="text")
    rows = made.texts()
    assert [row["question"] for row in rows] == [one.question for one in made.exercises if one.split == "train"]
    for row in rows:
        subject = row["question"].split()[3]
        assert row["texts"][0] == f"{subject}\nthe current edition of the {subject}"
        assert row["labels"] == [1.0, 0.0, 0.0, 0.0] and len(set(row["texts"])) == 4
        assert all(text.startswith(f"{subject}\n") for text in row["texts"])  # the words find the other editions


def test_vectors_are_the_indexs_own_and_the_embedders(turned: str, embedder: Path, tmp_path: Path) -> None:
    made = prepared(turned, embedder, tmp_path / "vectors", mode="text")
    found = made.vectors()
    known = {row["passage_id"]: row["vector"] for row in store.read(turned)}
    for row, one in zip(found.rows, made.training, strict=True):
        np.testing.assert_allclose(found.queries_QD[row["query"]], made.base.embed_query(one.question), atol=1e-6)
        for place, key in zip(row["passages"], (*one.answers, *one.negatives), strict=True):
            np.testing.assert_array_equal(found.passages_PD[place], np.asarray(known[key], dtype=np.float32))
        assert row["labels"] == [1.0, 0.0, 0.0, 0.0]
    assert found.queries_QD.dtype == found.passages_PD.dtype == np.float32


def test_an_identity_adapter_changes_no_figure_and_is_not_kept(turned: str, embedder: Path, tmp_path: Path) -> None:
    made = prepared(turned, embedder, tmp_path / "identity", mode="dense", expand="document")
    same = adapter(tmp_path / "same", np.eye(D), digest(embedder))
    verdict = made.judge({"query_adapter": same}, None, 10, 0.0, 0)
    gap = verdict.gains["without"]
    assert (gap["mean"], gap["low"], gap["high"]) == (0.0, 0.0, 0.0) and not verdict.kept
    assert verdict.figures["trained"]["ndcg@10"] == verdict.figures["without"]["ndcg@10"]


def test_the_adapter_that_undoes_a_turn_is_kept_and_its_opposite_is_not(
    turned: str, embedder: Path, tmp_path: Path
) -> None:
    made = prepared(turned, embedder, tmp_path / "right", mode="dense")
    right = adapter(tmp_path / "adapter", rotation(), digest(embedder))
    verdict = made.judge({"query_adapter": right}, None, 10, 0.0, 0)
    assert verdict.kept and verdict.gains["without"]["low"] > 0.3
    assert verdict.figures["trained"]["ndcg@10"]["mean"] > 0.95
    wrong = adapter(tmp_path / "wrong", -rotation(), digest(embedder))
    assert not made.judge({"query_adapter": wrong}, None, 10, 0.0, 0).kept
    other = adapter(tmp_path / "other", rotation(), "another embedder")
    with pytest.raises(UserError, match="trained for the embedder another embe"):
        made.judge({"query_adapter": other}, None, 10, 0.0, 0)


def test_what_a_search_has_already_or_cannot_use_is_refused() -> None:
    practice.check(RetrieveConfig(query_adapter="/some/folder"), "cross_encoder")
    practice.check(RetrieveConfig(mode="text"), "cross_encoder")
    for retrieve, kind, says in (
        (RetrieveConfig(rerank="/some/folder"), "cross_encoder", r"retrieve\.rerank: .* leave it out"),
        (RetrieveConfig(query_adapter="/some/folder"), "adapter", r"retrieve\.query_adapter: .* leave it out"),
        (RetrieveConfig(mode="text"), "adapter", r"retrieve\.mode=text searches no vectors"),
        (RetrieveConfig(mode="communities"), "cross_encoder", r"retrieve\.mode=communities finds summaries"),
    ):
        with pytest.raises(UserError, match=says):
            practice.check(retrieve, kind)
