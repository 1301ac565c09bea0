"""A fact belongs to the version that it was found of."""

from pathlib import Path

import pyarrow as pa

from components.data import store
from components.retrieval import facts

SCHEMA = pa.schema([("id", pa.string())])


def test_a_fact_belongs_to_one_version_and_is_replaced_by_its_kind(tmp_path: Path) -> None:
    first = store.write(str(tmp_path), "t", [{"id": "a"}], schema=SCHEMA, key="id")
    assert facts.read(first, "exam") is None
    facts.write(first, "exam", {"score": 1})
    facts.write(first, "graph", {"table": "x"})
    facts.write(first, "exam", {"score": [2, "it's"]})
    second = store.write(str(tmp_path), "t", [{"id": "b"}], schema=SCHEMA, key="id")
    assert facts.read(first, "exam") == {"score": [2, "it's"]} and facts.read(first, "graph") == {"table": "x"}
    assert facts.read(second, "exam") is None


def test_a_tag_names_a_version_and_moves(tmp_path: Path) -> None:
    first = store.write(str(tmp_path), "t", [{"id": "a"}], schema=SCHEMA, key="id")
    assert store.tagged(first, "current") is None
    by_tag = store.move_tag(first, "current")
    assert by_tag == f"{tmp_path}#t@current"
    second = store.write(str(tmp_path), "t", [{"id": "b"}], schema=SCHEMA, key="id")
    assert store.pin(by_tag) == store.tagged(first, "current") == first
    assert len(store.read(by_tag)) == 1
    store.move_tag(second, "current")
    assert store.pin(by_tag) == second and len(store.read(by_tag)) == 2
