"""An index of subjects in four editions each, of which the current one is the answer: no search can tell them apart."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa

from components.data import search, store
from components.data.records import PASSAGE, passage_schema
from components.models.sources import digest
from components.retrieval.embed import Embedder
from tests.components.retrieval.tiny_embedder import make_tiny_embedder

SUBJECTS = [f"thing{number}" for number in range(80)]
EDITIONS = ("current", "former", "draft", "void")
QUESTIONS = pa.schema([("question", pa.string()), ("passage_id", pa.string())])


def question_of(subject: str) -> str:
    """Return what is asked about a subject."""
    return f"what does the {subject} do"


def make_embedder(folder: Path) -> Path:
    """Save a tiny embedder that knows the words; return its folder."""
    return make_tiny_embedder(folder, [*SUBJECTS, *EDITIONS, "what", "does", "do", "the", "edition", "of"])


def of_texts(model: Embedder, rows: list[dict]) -> np.ndarray:
    """Return the vectors that an index usually has."""
    return model.documents([row["text"] for row in rows])


def make_index(uri: str, embedder: Path, vectors_of: Callable[[Embedder, list[dict]], np.ndarray] = of_texts) -> str:
    """Write the index and return its pinned reference."""
    rows = []
    for subject in SUBJECTS:
        for edition in EDITIONS:
            text = f"the {edition} edition of the {subject}"
            shared = dict.fromkeys(PASSAGE.names, f"{subject}:{edition}") | {"corpus": "c", "metadata": "{}"}
            own = {"text": text, "title": subject, "group": "", "symbol": None, "start": 0, "end": len(text)}
            rows.append(shared | own | {"n_tokens": 7, "embedder": digest(embedder)})
    vectors = vectors_of(Embedder(embedder), rows)
    rows = [row | {"vector": vector} for row, vector in zip(rows, vectors, strict=True)]
    store.write(uri, "passages", rows, schema=passage_schema(vectors.shape[1]), key="passage_id")
    return search.create_fulltext(f"{uri}#passages", "text")


def make_questions(uri: str, name: str = "questions", *, shuffled: bool = False) -> str:
    """Write a question about each subject; ``shuffled``, any of its editions is called the answer."""
    rng = random.Random(0)
    rows = [
        {
            "question": question_of(subject),
            "passage_id": f"{subject}:{rng.choice(EDITIONS) if shuffled else 'current'}",
        }
        for subject in SUBJECTS
    ]
    return store.write(uri, name, rows, schema=QUESTIONS, key=None)
