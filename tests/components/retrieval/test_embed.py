"""all-MiniLM-L6-v2 against the same model computed by transformers alone."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from components.config import UserError
from components.retrieval.embed import Embedder, check_embedder, embedding, load_tokenizer, max_input_tokens

TEXTS = ["Join two or more pathname components.", "a", "Return the cosine of x. " * 30]


@pytest.fixture(scope="module")
def embedder(minilm: Path) -> Embedder:
    return Embedder(minilm, "float32")


def test_vectors_are_the_normalised_mean_of_the_last_hidden_states(embedder: Embedder, minilm: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = (
        AutoModel.from_pretrained(minilm, dtype=torch.float32).eval(),
        AutoTokenizer.from_pretrained(minilm),
    )
    vectors = embedder.documents(TEXTS)
    assert vectors.shape == (3, 384) and vectors.dtype == np.float32
    for text, vector in zip(TEXTS, vectors, strict=True):
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt", truncation=True, max_length=256)).last_hidden_state
        expected = states[0].mean(dim=0).numpy()
        np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-5)


def test_a_vector_does_not_depend_on_its_neighbours(embedder: Embedder) -> None:
    together = embedder.documents(TEXTS)
    alone = np.concatenate([embedder.documents([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_bfloat16_has_unit_vectors_that_agree_with_float32(embedder: Embedder, minilm: Path) -> None:
    vectors = Embedder(minilm, "bfloat16").documents(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    assert (np.sum(vectors * embedder.documents(TEXTS), axis=1) > 0.995).all()


def test_threads_may_share_an_embedder(embedder: Embedder) -> None:
    expected = embedder.query("temporary file")
    with ThreadPoolExecutor(4) as pool:
        for vector in pool.map(lambda _: embedder.query("temporary file"), range(16)):
            np.testing.assert_allclose(vector, expected, atol=1e-6)


def test_the_tokenizer_counts_whole_texts(minilm: Path) -> None:
    assert max_input_tokens(minilm) == 254  # 256 with the two marks
    assert len(load_tokenizer(minilm).encode("word " * 1000, add_special_tokens=False).ids) == 1000


def test_a_long_text_is_embedded_whole(embedder: Embedder) -> None:
    """Windows of 254 tokens ("word" is one): 254, 254 and 92 of 600, their vectors weighted by these numbers."""
    words = ["sea"] * 254 + ["iron"] * 254 + ["jazz"] * 92
    parts = embedder.documents(["sea " * 253 + "sea", "iron " * 253 + "iron", "jazz " * 91 + "jazz"])
    expected = (np.array([254, 254, 92]) / 600) @ parts
    (vector,) = embedder.whole([" ".join(words)])
    np.testing.assert_allclose(vector, expected / np.linalg.norm(expected), atol=1e-4)
    other = embedder.whole([" ".join([*words[:254], *["moss"] * 346])])[0]
    cut = embedder.documents([" ".join(words), " ".join([*words[:254], *["moss"] * 346])])
    assert cut[0] @ cut[1] > 0.999 and vector @ other < 0.95  # cut off, the two would be one
    np.testing.assert_allclose(embedder.whole(TEXTS[:2]), embedder.documents(TEXTS[:2]), atol=1e-5)


def test_vectors_are_handed_over_without_loading_the_model(minilm: Path, tmp_path: Path) -> None:
    handed = embedding(str(minilm), tmp_path)
    assert handed.name == embedding(str(minilm), tmp_path).name
    assert handed.embed(["a text"]).shape == (1, 384)


def test_a_folder_without_an_embedding_model_is_refused(tiny_model_dir: Path) -> None:
    with pytest.raises(UserError, match=r"no modules\.json"):
        check_embedder(tiny_model_dir)


def test_batches_hold_texts_of_like_length(tmp_path: Path) -> None:
    """Of 200 texts of 1 to 100 tokens in an order of chance, at most 8 % of what is computed is padding.

    Letters and words mislead: a long word is one token, a short one of letters that make no word is many.
    """
    import random

    from tests.components.retrieval.tiny_embedder import make_tiny_embedder

    embedder = Embedder(make_tiny_embedder(tmp_path, ["internationalization"]), "float32", batch_size=16)
    rng = random.Random(0)
    texts = [" ".join([rng.choice(["internationalization", "x"])] * rng.randrange(1, 101)) for _ in range(200)]
    lengths = [len(text.split()) for text in texts]
    computed: list[int] = []
    hook = embedder._model.register_forward_pre_hook(lambda _, inputs: computed.append(inputs[0]["input_ids"].numel()))
    vectors = embedder.documents(texts, lengths)
    hook.remove()
    real = sum(length + 2 for length in lengths)
    assert len(computed) == 13 and real <= sum(computed) <= 1.08 * real
    np.testing.assert_allclose(vectors, embedder.documents(texts), atol=1e-5)
    assert embedder.documents([]).shape == (0, 32)
