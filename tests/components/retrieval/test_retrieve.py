"""Searching a small real index in all modes."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from components.config import UserError
from components.data import search, store
from components.data.records import PASSAGE, passage_schema
from components.models.query_adapter import QueryAdapter
from components.models.sources import digest
from components.retrieval.embed import Embedder
from components.retrieval.retrieve import RetrieveConfig, Retriever

TEXTS = {
    "os.path.join": "os.path.join(a, *p)\n\nJoin two or more pathname components.",
    "math.cos": "math.cos(x)\n\nReturn the cosine of x, measured in radians.",
    "tempfile.mkdtemp": "tempfile.mkdtemp()\n\nCreate a unique temporary directory.",
    "heapq.heappush": "heapq.heappush(heap, item)\n\nPush item onto heap, maintaining the heap invariant.",
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> str:
    uri = str(tmp_path_factory.mktemp("db"))
    vectors = Embedder(minilm).documents(list(TEXTS.values()))
    made_by = digest(minilm)
    rows = [
        dict.fromkeys(PASSAGE.names, name)
        | {"text": text, "group": name.rpartition(".")[0], "start": 0, "end": len(text), "n_tokens": 9}
        | {"embedder": made_by, "vector": vector}
        for (name, text), vector in zip(TEXTS.items(), vectors, strict=True)
    ]
    store.write(uri, "passages", rows, schema=passage_schema(384), key="passage_id")
    return search.create_fulltext(f"{uri}#passages", "text")


@pytest.fixture(scope="module")
def retrievers(index: str, minilm: Path) -> dict[str, Retriever]:
    return {mode: Retriever(index, minilm, RetrieveConfig(mode=mode)) for mode in ("dense", "text", "hybrid")}


@pytest.mark.parametrize("mode", ["dense", "text", "hybrid"])
def test_every_mode_finds_what_is_asked_for(retrievers: dict[str, Retriever], mode: str) -> None:
    for query, name in (("join path components", "os.path.join"), ("the heap invariant", "heapq.heappush")):
        hits = retrievers[mode].search(query)
        assert hits[0].passage_id == hits[0].title == name
        assert hits[0].text == TEXTS[name] and hits[0].group == name.rpartition(".")[0]
        assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_dense_understands_words_that_are_not_there(retrievers: dict[str, Retriever], minilm: Path) -> None:
    hit = retrievers["dense"].search("folder that is only needed for a short while", k=1)[0]
    assert hit.title == "tempfile.mkdtemp"
    embedder = Embedder(minilm)
    cosine = np.dot(embedder.query("folder that is only needed for a short while"), embedder.documents([hit.text])[0])
    assert hit.score == hit.similarity == pytest.approx(cosine, abs=1e-3)
    assert hit.bm25 is None
    assert retrievers["text"].search("folder that was only needed briefly", k=1) == []


def test_hybrid_is_the_rank_fusion_of_both(retrievers: dict[str, Retriever]) -> None:
    query = "cosine of a temporary directory"
    ranks = [
        {hit.passage_id: rank for rank, hit in enumerate(retrievers[mode].search(query, k=30), 1)}
        for mode in ("dense", "text")
    ]
    for hit in retrievers["hybrid"].search(query, k=4):
        assert hit.score == pytest.approx(sum(1 / (60 + r[hit.passage_id]) for r in ranks if hit.passage_id in r))
        assert (hit.bm25 is not None) == (hit.passage_id in ranks[1])


def test_a_hybrid_retriever_searches_in_any_mode(retrievers: dict[str, Retriever]) -> None:
    for mode in ("dense", "text"):
        assert retrievers["hybrid"].search("heap cosine", mode=mode) == retrievers[mode].search("heap cosine")
    with pytest.raises(UserError, match="open it as hybrid"):
        retrievers["text"].search("heap", mode="dense")


def test_k_and_where_narrow(index: str, minilm: Path, retrievers: dict[str, Retriever]) -> None:
    assert len(retrievers["hybrid"].search("heap", k=2)) == 2
    assert [hit.title for hit in retrievers["hybrid"].search("heap", k=4, where="group = 'math'")] == ["math.cos"]
    narrow = Retriever(index, minilm, RetrieveConfig(mode="text", where="group != 'heapq' OR false"))
    assert narrow.search("heap", where="true") == []


def test_an_empty_query_finds_nothing(retrievers: dict[str, Retriever]) -> None:
    assert retrievers["hybrid"].search(" \n") == retrievers["text"].search("???") == []


def test_searches_may_run_side_by_side(retrievers: dict[str, Retriever]) -> None:
    async def ask() -> list:
        return await asyncio.gather(*(asyncio.to_thread(retrievers["hybrid"].search, "heap") for _ in range(12)))

    assert {hits[0].title for hits in asyncio.run(ask())} == {"heapq.heappush"}


def test_it_stays_at_the_version_it_opened(index: str, minilm: Path) -> None:
    retriever = Retriever(index.partition("@")[0], minilm, RetrieveConfig(mode="text"))
    uri = index.partition("#")[0]
    store.delete(uri, "passages", "passage_id", ["math.cos"])
    assert retriever.search("cosine")[0].title == "math.cos"
    assert retriever.index == index
    later = Retriever(index.partition("@")[0], minilm, RetrieveConfig(mode="text"))
    assert later.search("cosine") == []


def test_what_does_not_fit_is_refused(index: str, minilm: Path, tmp_path: Path) -> None:
    uri = str(tmp_path)
    row = store.read(index)[0] | {"embedder": "of another model"}
    other = store.write(uri, "other", [row], schema=passage_schema(384), key="passage_id")
    with pytest.raises(UserError, match="made by another embedder"):
        Retriever(other, minilm, RetrieveConfig(mode="dense"))
    with pytest.raises(UserError, match="no full text index"):
        Retriever(other, minilm, RetrieveConfig(mode="text"))
    empty = store.write(uri, "empty", [], schema=passage_schema(384), key="passage_id")
    with pytest.raises(UserError, match="has no passages"):
        Retriever(empty, minilm, RetrieveConfig())
    with pytest.raises(UserError, match="no table 'absent'"):
        Retriever(f"{uri}#absent", minilm, RetrieveConfig())


def test_an_identity_adapter_changes_nothing_and_another_map_only_the_meaning(
    index: str, minilm: Path, retrievers: dict[str, Retriever], tmp_path: Path
) -> None:
    QueryAdapter(np.eye(384, dtype=np.float32), digest(minilm)).write(tmp_path / "same")
    QueryAdapter(-np.eye(384, dtype=np.float32), digest(minilm)).write(tmp_path / "opposite")
    for mode in ("dense", "hybrid"):
        plain = retrievers[mode]
        same = plain.with_config(RetrieveConfig(mode=mode, query_adapter=str(tmp_path / "same")))
        ours, theirs = (way.search("the heap invariant", k=4) for way in (same, plain))
        assert [hit.passage_id for hit in ours] == [hit.passage_id for hit in theirs]
        assert [hit.score for hit in ours] == pytest.approx([hit.score for hit in theirs], abs=1e-6)
        assert same.embed_query("heap") == pytest.approx(plain.embed_query("heap"), abs=1e-6)
    dense = RetrieveConfig(mode="dense", k=4, query_adapter=str(tmp_path / "opposite"))
    turned, plain = (way.search("the heap", k=4) for way in (Retriever(index, minilm, dense), retrievers["dense"]))
    assert [hit.passage_id for hit in turned] == [hit.passage_id for hit in reversed(plain)]
    assert [hit.score for hit in turned] == pytest.approx([-hit.score for hit in reversed(plain)], abs=1e-5)
    hybrid = retrievers["hybrid"].with_config(RetrieveConfig(query_adapter=str(tmp_path / "opposite")))
    assert hybrid.search("the heap", mode="text") == retrievers["text"].search("the heap")


def test_an_adapter_of_another_embedder_is_refused(retrievers: dict[str, Retriever], tmp_path: Path) -> None:
    QueryAdapter(np.eye(384, dtype=np.float32), "of another model").write(tmp_path)
    with pytest.raises(UserError, match=r"made by .*: train one on this index, or leave query_adapter out"):
        retrievers["hybrid"].with_config(RetrieveConfig(query_adapter=str(tmp_path)))
    with pytest.raises(UserError, match="is no query adapter"):
        retrievers["hybrid"].with_config(RetrieveConfig(query_adapter=str(tmp_path / "absent")))
    with pytest.raises(ValueError, match="mode 'text' searches none"):
        RetrieveConfig(mode="text", query_adapter=str(tmp_path))
