"""Late interaction against a slow reference by transformers and numpy alone: which tokens count, and how."""

import json
from pathlib import Path

import numpy as np
import pytest

from components.config import UserError
from components.data import search, store
from components.data.records import PASSAGE, passage_schema
from components.models.sources import digest
from components.retrieval import late
from components.retrieval.embed import Embedder
from components.retrieval.exam_steps import Tried, prepare
from components.retrieval.late import LateInteraction, compares_tokens
from components.retrieval.retrieve import RetrieveConfig, Retriever, open_retriever
from tests.components.retrieval.tiny_embedder import make_tiny_embedder

QUERY = "how to copy a folder"
TEXTS = [
    "Copy a whole folder with all that is in it.",
    "bread",
    "A glacier is a river of ice, and flows a few metres in a year.",
    "\U0001f40d unknown sign",
]
WORDS = [word for text in (QUERY, *TEXTS) for word in text.lower().split() if word.isascii()]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_embedder(tmp_path_factory.mktemp("tiny"), WORDS)


@pytest.fixture(scope="module")
def model(tiny: Path) -> LateInteraction:
    return LateInteraction(tiny, "float32")


def token_vectors(folder: Path, text: str) -> np.ndarray:
    """The unit vectors of a text's tokens, computed alone and by transformers; the first and last are marks."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, bert = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        states = bert.eval()(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
    return np.stack([row / np.sqrt((row * row).sum()) for row in states[1:-1]])


def maxsim(query: np.ndarray, text: np.ndarray) -> float:
    """Equation 3 of ColBERT in loops, for each token of the query."""
    total = 0.0
    for q in query:
        total += max(float(sum(a * b for a, b in zip(q, d, strict=True))) for d in text)
    return total / len(query)


@pytest.mark.parametrize("folder", ["tiny", "minilm"])
def test_a_score_is_the_sum_over_the_querys_tokens_of_their_best_match(
    folder: str, request: pytest.FixtureRequest
) -> None:
    path = request.getfixturevalue(folder)
    query = token_vectors(path, QUERY)
    expected = [maxsim(query, token_vectors(path, text)) for text in TEXTS]
    found = LateInteraction(path, "float32").scores(QUERY, TEXTS)
    assert found.dtype == np.float32 and found.shape == (4,)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_text_is_its_own_best_match(model: LateInteraction) -> None:
    for text in TEXTS:
        assert model.scores(text, [text])[0] == pytest.approx(1.0, abs=1e-5)
    assert (model.scores(QUERY, TEXTS) < 1 - 1e-3).all()


def test_what_stands_in_padded_places_and_in_marks_does_not_count(tiny: Path) -> None:
    """Numbers that would win every comparison are put where no text is, and where the marks are."""
    clean = LateInteraction(tiny, "float32").scores(QUERY, TEXTS)
    poisoned = LateInteraction(tiny, "float32")
    places = []

    def poison(_module: object, _inputs: object, output: dict) -> dict:
        ids, vectors = output["input_ids"], output["token_embeddings"].clone()
        foreign = (ids == 0) | (ids == 2) | (ids == 3)  # [PAD], [CLS], [SEP]
        vectors[foreign] = 1e4
        places.append(int((ids == 0).sum()))
        return output | {"token_embeddings": vectors}

    poisoned._model[0].register_forward_hook(poison)
    np.testing.assert_allclose(poisoned.scores(QUERY, TEXTS), clean, atol=1e-6)
    assert sum(places) > 10, "the texts were not padded: this shows nothing"


def test_a_score_depends_on_no_neighbour_and_not_on_what_is_kept(
    model: LateInteraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = model.scores(QUERY, TEXTS)
    monkeypatch.setattr(late, "_KEPT_PASSAGES", 2)
    alone = [model.scores(QUERY, [text])[0] for text in TEXTS]
    np.testing.assert_allclose(alone, together, atol=1e-5)
    assert list(model._kept) == TEXTS[-2:]
    encoded = []
    monkeypatch.setattr(model._model, "encode_document", lambda texts, **_: encoded.append(texts) or [])
    np.testing.assert_allclose(model.scores(QUERY, TEXTS[2:]), together[2:], atol=1e-5)
    assert encoded == [[]] and list(model._kept) == TEXTS[2:]


def test_a_text_twice_and_no_text_and_a_query_without_tokens(model: LateInteraction) -> None:
    twice = model.scores(QUERY, [TEXTS[0], TEXTS[1], TEXTS[0]])
    assert twice[0] == twice[2] != twice[1]
    assert model.scores(QUERY, []).shape == (0,)
    assert np.isfinite(model.scores("\u200b", TEXTS)).all()


def test_a_colbert_is_used_as_it_was_trained(tiny: Path, tmp_path: Path) -> None:
    """Its own projection and its marks count; the reference is the library's own scoring of it."""
    import torch
    from sentence_transformers import MultiVectorEncoder

    torch.manual_seed(1)
    made = MultiVectorEncoder(str(tiny / "0_Transformer" if (tiny / "0_Transformer").is_dir() else tiny))
    made.save(str(tmp_path / "colbert"))
    assert compares_tokens(tmp_path / "colbert")
    expected = made.similarity(made.encode_query([QUERY]), made.encode_document(TEXTS))[0].numpy()
    tokens = len(made.encode_query([QUERY])[0])
    found = LateInteraction(tmp_path / "colbert", "float32").scores(QUERY, TEXTS)
    np.testing.assert_allclose(found * tokens, expected, atol=1e-4)
    assert not np.allclose(found, LateInteraction(tiny, "float32").scores(QUERY, TEXTS), atol=1e-3)


def test_folders_are_told_apart(tiny: Path, tmp_path: Path) -> None:
    assert compares_tokens(tiny) and not compares_tokens(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["BertForSequenceClassification"]}))
    assert not compares_tokens(tmp_path)
    with pytest.raises(UserError, match="takes an embedder or a ColBERT"):
        LateInteraction(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["HF_ColBERT"]}))
    assert compares_tokens(tmp_path)
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"model_type": "CrossEncoder"}))
    assert not compares_tokens(tmp_path)


def test_it_puts_an_indexs_candidates_in_order_and_is_examined_where_it_was_asked_for(
    tiny: Path, model: LateInteraction, tmp_path: Path
) -> None:
    texts = TEXTS[:3]
    vectors = Embedder(tiny, "float32").documents(texts)
    rows = [
        dict.fromkeys(PASSAGE.names, f"p{number}")
        | {"corpus": "c", "text": text, "title": "t", "symbol": None, "metadata": "{}", "embedder": digest(tiny)}
        | {"start": 0, "end": len(text), "n_tokens": 9, "vector": vector}
        for number, (text, vector) in enumerate(zip(texts, vectors, strict=True))
    ]
    store.write(str(tmp_path), "passages", rows, schema=passage_schema(32), key="passage_id")
    index = search.create_fulltext(f"{tmp_path}#passages", "text")
    modes = prepare(index, Tried(late=str(tiny), rerank="hub/name"), tiny)
    assert prepare(index, Tried(), tiny) == {}
    depths = {name: (way.rerank, way.rerank_depth) for name, way in modes.items() if name != "hybrid_late"}
    assert depths == {f"hybrid_rerank_{depth}": ("hub/name", depth) for depth in (10, 20, 50)}
    way = modes["hybrid_late"].model_copy(update={"rerank_depth": 3})
    found = open_retriever(index, tiny, way, tmp_path).search(QUERY, k=3)
    expected = dict(zip(texts, model.scores(QUERY, [f"t\n{text}" for text in texts]), strict=True))
    assert [hit.text for hit in found] == sorted(expected, key=expected.get, reverse=True)
    assert [hit.score for hit in found] == pytest.approx(sorted(expected.values(), reverse=True), abs=2e-2)
    plain = Retriever(index, tiny, RetrieveConfig()).search(QUERY, k=3)
    assert {hit.passage_id for hit in plain} == {hit.passage_id for hit in found}
