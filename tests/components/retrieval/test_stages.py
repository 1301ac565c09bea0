"""The stages behind a search, over a small real index: fusion, reranking, novelty, widening, documents, graph."""

from pathlib import Path

import numpy as np
import pytest

from components.config import UserError
from components.data import search, store
from components.data.records import PASSAGE, passage_schema
from components.models.sources import digest
from components.retrieval import documents, facts, graph
from components.retrieval.embed import Embedder
from components.retrieval.expand import expand
from components.retrieval.fusion import weighted_fusion
from components.retrieval.rerank import Reranker
from components.retrieval.retrieve import RetrieveConfig, Retriever, open_retriever
from components.retrieval.transforms.expansion import Expansion

DOCUMENTS = {
    "copytree": "shutil.copytree\n\nCopy a whole folder with all that is in it.\n\nFiles are copied by copy2().",
    "copy2": "shutil.copy2\n\nKeep the times of change and the permission bits.\n\nLinks may be followed.",
    "bread": "Bread\n\nSourdough needs flour, water and salt.\n\nThe starter has to be fed every day.",
    "glacier": "Glaciers\n\nA glacier is a river of ice.\n\nIt flows a few metres in a year.",
}


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory, minilm: Path) -> str:
    rows = []
    for name, text in DOCUMENTS.items():
        start = 0
        for piece in text.split("\n\n"):
            shared = dict.fromkeys(PASSAGE.names, name) | {"corpus": "c", "group": "", "embedder": digest(minilm)}
            place = {"start": start, "end": start + len(piece), "n_tokens": len(piece.split())}
            own = {"passage_id": f"{name}:{start}", "text": piece, "title": text.split("\n")[0], "metadata": "{}"}
            symbol = own["title"] if "." in own["title"] else None
            rows.append(shared | place | own | {"symbol": symbol})
            start += len(piece) + 2
    vectors = Embedder(minilm, "float32").documents([row["text"] for row in rows])
    rows = [row | {"vector": vector} for row, vector in zip(rows, vectors, strict=True)]
    uri = str(tmp_path_factory.mktemp("db"))
    store.write(uri, "passages", rows, schema=passage_schema(384), key="passage_id")
    made = search.create_fulltext(f"{uri}#passages", "text")
    documents.build(made)
    graph.build(made)
    return made


@pytest.fixture(scope="module")
def hybrid(index: str, minilm: Path) -> Retriever:
    return Retriever(index, minilm, RetrieveConfig())


def _way(hybrid: Retriever, **options) -> Retriever:
    return hybrid.with_config(RetrieveConfig(**options))


def test_weighted_fusion_is_that_of_both_sides(hybrid: Retriever) -> None:
    query = "a folder of copied files"
    sides = [_way(hybrid, mode=mode, k=30).search(query) for mode in ("dense", "text")]
    expected = weighted_fusion([{hit.passage_id: hit.score for hit in side} for side in sides], [1.4, 0.6])
    found = _way(hybrid, fusion="weighted", dense_weight=0.7, k=4).search(query)
    assert [(hit.passage_id, pytest.approx(hit.score, abs=1e-5)) for hit in found] == expected[:4]


def test_a_fusion_of_which_one_side_counts_nothing_is_the_other_side(hybrid: Retriever) -> None:
    for weight, mode in ((1.0, "dense"), (0.0, "text")):
        for fusion in ("rrf", "weighted"):
            fused = _way(hybrid, fusion=fusion, dense_weight=weight, k=2).search("the copied files")
            alone = _way(hybrid, mode=mode, k=2).search("the copied files")
            assert [hit.passage_id for hit in fused] == [hit.passage_id for hit in alone]


def test_novelty_reorders_what_was_found_and_keeps_the_best_first(hybrid: Retriever) -> None:
    query = "copying folders and files"
    plain = [hit.passage_id for hit in _way(hybrid, k=12).search(query)]
    novel = [hit.passage_id for hit in _way(hybrid, k=12, novelty=0.7).search(query)]
    assert novel != plain and set(novel) == set(plain) and novel[0] == plain[0]


def test_widened_passages_are_slices_of_their_document_and_do_not_overlap(hybrid: Retriever) -> None:
    hits = _way(hybrid, k=12, expand="document", expand_tokens=100).search("copying folders and files")
    assert len({hit.doc_id for hit in hits}) == len(hits) == 4
    for hit in hits:
        text = DOCUMENTS[hit.doc_id]
        assert (hit.start, hit.end) == (0, len(text))
        assert hit.text == text.replace("\n\n", "\n")
    single = _way(hybrid, k=1).search("Keep the times of change")
    assert expand(single, hybrid._table, "none", 1) == single
    assert _way(hybrid, k=1, expand="neighbours", expand_tokens=1).search("Keep the times of change") == single


def test_a_document_has_the_mean_vector_of_its_passages(index: str) -> None:
    found = {row["doc_id"]: row for row in store.read(facts.read(index, "documents")["table"])}
    assert set(found) == set(DOCUMENTS)
    own = [row for row in store.read(index) if row["doc_id"] == "bread"]
    mean = np.sum([np.array(row["vector"]) * row["n_tokens"] for row in own], axis=0)
    np.testing.assert_allclose(found["bread"]["vector"], mean / np.linalg.norm(mean), atol=1e-5)
    assert found["bread"]["text"].startswith("Bread")


def test_a_hierarchical_search_stays_in_the_best_documents(hybrid: Retriever) -> None:
    query = "flour and a starter for sourdough bread, and ice"
    assert {hit.doc_id for hit in _way(hybrid, k=12).search(query)} > {"bread"}
    hits = _way(hybrid, mode="hierarchical", documents=1, k=12).search(query)
    assert {hit.doc_id for hit in hits} == {"bread"} and len(hits) == 3
    others = _way(hybrid, mode="hierarchical", documents=1, k=12, where="doc_id != 'bread'")
    found = {hit.doc_id for hit in others.search(query)}
    assert len(found) == 1 and "bread" not in found
    assert others.search("ice", where="doc_id = 'nothing'") == []


def test_a_condition_that_too_many_documents_meet_is_met_all_the_same(
    hybrid: Retriever, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than one condition can list: the best documents are looked at until there are enough, or no more."""
    monkeypatch.setattr(documents, "_MOST_NAMED", -1)
    query = "flour and a starter for sourdough bread, and ice"
    listed = _way(hybrid, mode="hierarchical", documents=1, k=12, where="doc_id != 'bread'").search(query)
    assert len({hit.doc_id for hit in listed}) == 1 and listed[0].doc_id != "bread"
    assert _way(hybrid, mode="hierarchical", documents=1, where="doc_id = 'nothing'").search(query) == []


def test_a_walk_reaches_what_shares_no_word_with_the_question(hybrid: Retriever) -> None:
    """copytree mentions copy2(); the question names copytree only, and copy2's passages share no word with it."""
    query = "What does the function keep that `shutil.copytree` calls?"
    walked = [hit.doc_id for hit in _way(hybrid, mode="graph", k=6).search(query)]
    assert {"copytree", "copy2"} <= set(walked)
    scores = {}
    for hit in _way(hybrid, mode="graph", k=12).search(query):
        scores[hit.doc_id] = max(hit.score, scores.get(hit.doc_id, 0.0))
    assert scores["copy2"] > max(scores.get("bread", 0.0), scores.get("glacier", 0.0))
    hidden = _way(hybrid, mode="graph", where="doc_id NOT IN ('copytree', 'copy2')", k=1, candidates=1)
    (only,) = hidden.search(query)  # what is hidden makes room for what comes after
    assert only.doc_id not in ("copytree", "copy2")


def test_expansion_brings_what_the_query_does_not_say(hybrid: Retriever) -> None:
    """The passage about a river speaks of a glacier, as the title of its document does."""
    plain = {hit.passage_id for hit in _way(hybrid, mode="text", k=12).search("river")}
    longer = Expansion(name="expansion", passages=1)
    found = {hit.passage_id for hit in _way(hybrid, mode="text", k=12, transform=longer).search("river")}
    assert plain == {"glacier:10"} and found >= {"glacier:10", "glacier:0"}


@pytest.fixture(scope="module")
def cross_encoder(minilm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny untrained BERT with one output and the embedder's tokenizer: its order is arbitrary, but its own."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("models") / "cross"
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(vocab_size=len(tokenizer), num_labels=1, initializer_range=0.5, **shape)
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder


def test_a_reranker_puts_the_candidates_that_it_reads_in_its_own_order(
    index: str, hybrid: Retriever, minilm: Path, cross_encoder: Path
) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    query = "copying folders and files"
    config = RetrieveConfig(rerank=str(cross_encoder), rerank_depth=5, k=5)
    found = open_retriever(index, minilm, config, cross_encoder.parent).search(query)
    read = _way(hybrid, k=5).search(query)
    model = AutoModelForSequenceClassification.from_pretrained(cross_encoder).eval()
    tokenizer = AutoTokenizer.from_pretrained(cross_encoder)
    expected = {}
    for hit in read:
        with torch.no_grad():
            logits = model(**tokenizer(query, f"{hit.title}\n{hit.text}", return_tensors="pt")).logits
        expected[hit.passage_id] = float(logits[0, 0])
    assert [hit.passage_id for hit in found] == sorted(expected, key=expected.get, reverse=True)
    assert [hit.score for hit in found] == pytest.approx(sorted(expected.values(), reverse=True), abs=1e-4)


def test_what_a_stage_lacks_is_said(hybrid: Retriever, minilm: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not loaded: open the retriever with open_retriever"):
        _way(hybrid, rerank="some/model")
    with pytest.raises(UserError, match=r"it has no config\.json"):
        Reranker(tmp_path)
    row = store.read(hybrid.index)[0]
    bare = store.write(str(tmp_path), "bare", [row], schema=passage_schema(384), key="passage_id")
    search.create_fulltext(bare, "text")
    for mode, what in (("hierarchical", "no document vectors"), ("graph", "no graph of names")):
        with pytest.raises(UserError, match=what):
            Retriever(bare.partition("@")[0], minilm, RetrieveConfig(mode=mode))
    with pytest.raises(UserError, match="open it as hybrid"):
        Retriever(hybrid.index, minilm, RetrieveConfig(mode="text")).with_config(RetrieveConfig())
