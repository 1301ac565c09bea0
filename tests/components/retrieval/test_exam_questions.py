"""Questions that an index asks of itself, and what answers them."""

from pathlib import Path

import pytest

from components.data import store
from components.retrieval.exam_questions import questions_from
from tests.components.retrieval.made_up_index import make_index


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_index(str(tmp_path_factory.mktemp("db")), 100)


def test_questions_are_of_the_index_and_the_same_for_the_same_seed(index: str) -> None:
    asked = questions_from(index, 30, seed=1)
    rows = {row["passage_id"]: row for row in store.read(index)}
    assert 10 <= len(asked) <= 30
    for one in asked.values():
        assert rows[one.passage_id]["doc_id"] == one.doc_id and one.kind in ("what", "which", "detail")
        assert one.grades() == {one.passage_id: 1}
        assert store.count(index, one.unseen()) == 99
    assert len({one.question for one in asked.values()}) == len(asked)
    assert asked == questions_from(index, 30, seed=1) != questions_from(index, 30, seed=2)


def test_a_copy_answers_too_and_is_kept_out_of_sight_with_the_passage(tmp_path: Path) -> None:
    """Of 40 passages all come again in a document of their own: it and one other are out of sight each time."""
    index = make_index(str(tmp_path), 40, copies=tuple(range(40)))
    asked = questions_from(index, 30, seed=1).values()
    assert asked
    for one in asked:
        name = one.passage_id.removeprefix("old ")
        assert one.grades() == {name: 1, f"old {name}": 1}
        assert store.count(index, one.unseen()) == 39
