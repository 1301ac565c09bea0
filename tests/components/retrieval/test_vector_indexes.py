"""A table's vector index: shown to readers when it passed, taken back when not, renewed where it no longer fits."""

from pathlib import Path

import pytest

from components.data import search, store, versions
from components.retrieval import facts, vector_indexes
from components.retrieval.vector_indexes import renewed
from tests.components.retrieval.made_up_index import make_index


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A table of 400 passages that readers have, without a version."""
    make_index(str(tmp_path), 400)
    return versions.publish(str(tmp_path), "passages", "c").partition("@")[0]


@pytest.mark.parametrize("kind", ["ivf_flat", "ivf_sq", "ivf_rq", "hnsw_sq"])
def test_an_index_is_shown_when_it_has_passed_and_then_left_alone(table: str, kind: str) -> None:
    before = store.pin(table)
    with renewed(table, kind) as trial:
        assert store.pin(table) == before == trial.before != trial.index
        trial.passed = True
    assert store.pin(table) == trial.index
    assert search.vector_index(store.pin(table)) == search.FoundIndex(kind, 0)
    with renewed(table, kind) as again:
        assert again.index == again.before == trial.index
    assert store.pin(table) == trial.index


def test_one_that_failed_is_taken_back_and_what_is_known_of_the_table_stays(table: str) -> None:
    with renewed(table, "ivf_sq") as trial:
        trial.passed = True
    before = store.pin(table)
    facts.write(before, "kind", {"known": True})
    with renewed(table, "ivf_flat"):
        pass
    with pytest.raises(RuntimeError, match="in the middle"), renewed(table, "ivf_flat"):
        raise RuntimeError("in the middle")
    assert store.pin(table) == before and facts.read(table, "kind") == {"known": True}
    assert search.vector_index(store.pin(table)) == _latest_index(table) == search.FoundIndex("ivf_sq", 0)
    with renewed(table, "none") as trial:
        trial.passed = True
    assert search.vector_index(store.pin(table)) is None


def test_one_whose_exam_was_killed_is_taken_back_by_the_next_update_or_exam(table: str) -> None:
    uri, name, _ = store.parse_ref(table)
    before = store.pin(table)
    for goes_on in ("update", "exam"):
        vector_indexes._renew(before, "ivf_flat")  # and nobody settles it
        assert _latest_index(table) is not None and store.pin(table) == before
        if goes_on == "update":
            versions.begin(uri, name, "c")
            assert _latest_index(table) is None
            versions.take_back(uri, name, "c")
        else:
            with renewed(table, "ivf_sq") as trial:
                assert trial.before == before
                trial.passed = True
    assert search.vector_index(store.pin(table)) == search.FoundIndex("ivf_sq", 0)


def test_an_update_takes_back_what_has_not_passed_yet(table: str) -> None:
    uri, name, _ = store.parse_ref(table)
    with renewed(table, "ivf_flat") as trial:
        versions.begin(uri, name, "c")
        store.delete(uri, name, "passage_id", [store.read(table)[0]["passage_id"]])
        trial.passed = True
    assert store.count(store.pin(table)) == 400, "half an update is not shown"
    versions.publish(uri, name, "c")
    assert store.count(store.pin(table)) == 399 and search.vector_index(store.pin(table)) is None


def test_by_default_the_index_that_somebody_chose_is_kept(table: str) -> None:
    with renewed(table, "hnsw_sq") as trial:
        trial.passed = True
    with renewed(table, "auto") as again:
        assert again.index == again.before


def _latest_index(table: str) -> search.FoundIndex | None:
    """That of the latest version, which is what the next update starts from."""
    return search.vector_index(table)


def test_one_that_lacks_many_rows_is_made_anew(table: str) -> None:
    uri, name, _ = store.parse_ref(table)
    with renewed(table, "ivf_flat") as trial:
        trial.passed = True
    rows = [row | {"passage_id": f"new {row['passage_id']}"} for row in store.read(table)[:60]]
    store.write(uri, name, rows, schema=store.open_table(table).schema, key="passage_id")
    versions.publish(uri, name, "c")
    assert search.vector_index(store.pin(table)) == search.FoundIndex("ivf_flat", 60)  # of 460: more than a tenth
    with renewed(table, "ivf_flat") as trial:
        assert trial.index != trial.before
        trial.passed = True
    assert search.vector_index(store.pin(table)) == search.FoundIndex("ivf_flat", 0)


def test_an_older_version_is_examined_as_it_is(table: str) -> None:
    uri, name, _ = store.parse_ref(table)
    older = store.pin(table)
    store.delete(uri, name, "passage_id", [store.read(table)[0]["passage_id"]])
    with renewed(older, "ivf_flat") as trial:
        assert trial.index == trial.before == older
    assert search.vector_index(older) is None
    assert store.count(older) == 400
