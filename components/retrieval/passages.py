"""What runs on workers while an index is built: reading and chunking parts of a corpus, embedding the new rows."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from components.config import UserError
from components.data.records import Document, content_hash
from components.data.schemas import PASSAGE
from components.data.sources import Unreadable, read_part
from components.retrieval.chunkers import ChunkerConfig, chunker
from components.retrieval.embed import Dtype, Embedder, load_tokenizer, max_input_tokens

THREADS = 2  # of an embedding actor
DESCRIPTION = ("start", "end", "source", "title", "group", "symbol", "metadata")  # may change while the text stays
ROW = pa.schema(
    [
        *PASSAGE,
        ("vector", pa.list_(pa.float32())),  # null where the table has it already
        ("part", pa.int64()),
        ("state", pa.string()),  # new | moved (text known, description not) | same | failed
        ("input", pa.string()),  # what is embedded
        ("error", pa.string()),
    ]
)


@dataclass(frozen=True)
class Corpus:
    """What a worker needs to turn parts into rows; plain data."""

    name: str
    source: str
    embedder: str  # digest
    embedder_folder: str
    chunker: ChunkerConfig


def read_and_chunk(batch: pa.Table, corpus: Corpus, known: Any) -> Iterator[pa.Table]:
    """Turn parts into rows without vectors; a part that cannot be read becomes one row with the reason.

    Raises:
        UserError: a file was changed after its rows were checked.
    """
    import ray

    facts_of = ray.get(known)
    tokenizer = load_tokenizer(corpus.embedder_folder)
    cut = chunker(tokenizer, corpus.chunker)
    room = max_input_tokens(corpus.embedder_folder)
    for item in batch.to_pylist():
        part = json.loads(item["payload"])
        try:
            documents = list(read_part(corpus.source, part))
            rows = [row for document in documents for row in _rows(document, corpus, cut, tokenizer, room)]
        except Unreadable as error:
            rows = [_failure(part, str(error))]
        except UserError:  # what was checked on the driver is wrong now: stop before rows are taken for gone
            raise
        except Exception as error:  # parsers of foreign formats raise whatever they like
            rows = [_failure(part, f"{type(error).__name__}: {error}")]
        for row in rows:
            row["part"] = item["part"]
            row.setdefault("state", _state(facts_of.get(row["passage_id"]), row))
        yield pa.Table.from_pylist(rows, schema=ROW)


def _rows(document: Document, corpus: Corpus, cut: Any, tokenizer: Any, room: int) -> Iterator[dict[str, Any]]:
    occurrences: Counter[str] = Counter()
    title_tokens = len(tokenizer.encode(document.title, add_special_tokens=False).ids)
    for span in cut(document.text):
        text = document.text[span.start : span.end]
        # A later piece of a document seldom says what it is about: its title does.
        titled = not text.startswith(document.title) and title_tokens + span.n_tokens <= room
        embedded = f"{document.title}\n{text}" if titled else text
        occurrences[embedded] += 1
        yield {
            **document.row(),
            "passage_id": content_hash(corpus.name, document.doc_id, embedded, str(occurrences[embedded])),
            "corpus": corpus.name,
            "text": text,
            "start": span.start,
            "end": span.end,
            "n_tokens": span.n_tokens,
            "embedder": corpus.embedder,
            "input": embedded,
        }


def _failure(part: dict[str, Any], reason: str) -> dict[str, Any]:
    return {"doc_id": part["doc_id"], "passage_id": None, "state": "failed", "error": reason}


def _state(known: str | None, row: dict[str, Any]) -> str:
    if known is None:
        return "new"
    return "same" if known == facts_hash(row) else "moved"


def facts_hash(row: dict[str, Any]) -> str:
    """Return a hash of what a row says about its text."""
    return content_hash(*(json.dumps(row[column]) for column in DESCRIPTION))


class EmbedNew:
    """An actor that fills in the vectors of new rows; it loads its model when it meets the first."""

    def __init__(self, folder: str, dtype: Dtype, batch_size: int) -> None:
        self._folder, self._dtype, self._batch_size = folder, dtype, batch_size
        self._embedder: Embedder | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        import numpy as np

        is_new = np.array([state == "new" for state in batch.column("state").to_pylist()])
        if not is_new.any():
            return batch
        vectors = iter(self._model().documents(batch.filter(pa.array(is_new)).column("input").to_pylist()))
        column = pa.array([next(vectors) if new else None for new in is_new], type=pa.list_(pa.float32()))
        return batch.set_column(batch.schema.get_field_index("vector"), "vector", column)

    def _model(self) -> Embedder:
        if self._embedder is None:
            import torch

            torch.set_num_threads(min(THREADS, os.cpu_count() or 1))  # Ray would leave it one
            self._embedder = Embedder(self._folder, self._dtype, self._batch_size)
        return self._embedder
