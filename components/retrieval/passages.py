"""What runs on workers while an index is built: reading and chunking parts of a corpus, embedding the new rows."""

import bisect
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from components.config import UserError
from components.data.outline import Outline
from components.data.readers import Gone
from components.data.records import Document, content_hash
from components.data.schemas import PASSAGE
from components.data.sources import Unreadable, read_part
from components.retrieval.chunkers import ChunkerConfig, chunker
from components.retrieval.embed import Dtype, Embedder, load_tokenizer, max_input_tokens

if TYPE_CHECKING:
    import numpy as np

_ROWS_PER_TABLE = 512
THREADS = 2  # of an embedding actor
_LONGEST_TITLE = 300  # characters; it is repeated with every passage
# What may change while the text stays.
DESCRIPTION = ("start", "end", "source", "title", "group", "symbol", "metadata", "section", "page", "date")
ROW = pa.schema(
    [
        *PASSAGE,
        ("vector", pa.list_(pa.float32())),  # null where the table has it already
        ("part", pa.int64()),
        ("state", pa.string()),  # new | moved (text known, description not) | same | failed | gone
        ("input", pa.string()),  # what is embedded
        ("input_tokens", pa.int64()),
        ("embedded_s", pa.float64()),  # when, in seconds since 1970: rows may reach the driver later, and all at once
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


class Chunking:
    """What a worker loads once to cut documents: the tokenizer, the chunker, and the embedder if that asks for it."""

    def __init__(self, corpus: Corpus) -> None:
        self.corpus = corpus
        self.tokenizer = load_tokenizer(corpus.embedder_folder)
        self.cut = chunker(self.tokenizer, corpus.chunker, self._embed)
        self.room = max_input_tokens(corpus.embedder_folder)
        self._embedder: Embedder | None = None

    def _embed(self, texts: Sequence[str]) -> "np.ndarray":
        if self._embedder is None:
            self._embedder = Embedder(self.corpus.embedder_folder)
        return self._embedder.documents(texts)


@dataclass
class _Named:
    """The document at hand, which may come in pieces: how often it has said what."""

    doc_id: str
    occurrences: Counter[str] = field(default_factory=Counter)


def read_and_chunk(batch: pa.Table, corpus: Corpus, known: Any) -> Iterator[pa.Table]:
    """Turn a block of parts into rows, as ``chunk_parts``; ``known`` is a Ray reference of what that wants."""
    import ray

    yield from chunk_parts(batch.to_pylist(), corpus, ray.get(known))


def chunk_parts(items: Iterable[dict[str, Any]], corpus: Corpus, known: Mapping[str, str]) -> Iterator[pa.Table]:
    """Turn parts into tables of ``ROW`` without vectors; a part that cannot be read becomes one row with the reason.

    Rows leave document by document, so that no more than one, or a piece of a long one, is in memory.

    Args:
        items: ``part``, its number, and ``payload``, the part as JSON.
        known: passage_id → ``facts_hash`` of what the table has.

    Raises:
        UserError: a file was changed after its rows were checked.
    """
    chunking = Chunking(corpus)
    for item in items:
        for rows in _tables(json.loads(item["payload"]), chunking):
            sent = [_sent(row, item["part"], known) for row in rows]
            yield pa.Table.from_pylist(sent, schema=ROW)


def _tables(part: dict[str, Any], chunking: Chunking) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of each document of a part, and at least one row."""
    named, is_empty = _Named(""), True
    try:
        for document in read_part(chunking.corpus.source, part):
            if document.doc_id != named.doc_id:
                named = _Named(document.doc_id)
            for rows in _batched(rows_of(document, chunking, named.occurrences)):
                is_empty = False
                yield rows
    except Unreadable as error:
        yield [_failure(part, str(error), "gone" if isinstance(error, Gone) else "failed")]
    except UserError:  # what was checked on the driver is wrong now: stop before rows are taken for gone
        raise
    except Exception as error:  # parsers of foreign formats raise whatever they like
        yield [_failure(part, f"{type(error).__name__}: {error}")]
    else:
        if is_empty:
            yield [_failure(part, "it holds no text", "gone")]


def rows_of(document: Document, chunking: Chunking, occurrences: Counter[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows of a document, without vectors; ``occurrences`` counts what it said in pieces before this one."""
    corpus, title = chunking.corpus, document.title[:_LONGEST_TITLE]
    title_tokens = len(chunking.tokenizer.encode(title, add_special_tokens=False).ids)
    outline = Outline(document.text) if document.form == "markdown" else None
    for span in chunking.cut(document.text, document.source):
        text = document.text[span.start : span.end]
        # A later piece of a document seldom says what it is about: its title does.
        titled = not text.startswith(title) and title_tokens + span.n_tokens <= chunking.room
        embedded = f"{title}\n{text}" if titled else text
        said = content_hash(embedded)  # a long document's texts would fill the memory
        occurrences[said] += 1
        yield {
            "passage_id": content_hash(corpus.name, document.doc_id, embedded, str(occurrences[said])),
            "corpus": corpus.name,
            "doc_id": document.doc_id,
            "text": text,
            "source": document.source,
            "title": title,
            "group": document.group,
            "start": document.offset + span.start,
            "end": document.offset + span.end,
            "n_tokens": span.n_tokens,
            "symbol": document.symbol,
            "metadata": document.metadata,
            "embedder": corpus.embedder,
            "section": outline.section(span.start) if outline else None,
            "page": _page(document, span.start),
            "date": document.date,
            "input": embedded,
            "input_tokens": span.n_tokens + (title_tokens if titled else 0),
        }


def _batched(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    waiting = iter(rows)
    while some := list(islice(waiting, _ROWS_PER_TABLE)):
        yield some


def _page(document: Document, start: int) -> str | None:
    number = bisect.bisect_right([page["start"] for page in document.pages], start)
    return document.pages[number - 1]["label"] if number else None


def _failure(part: dict[str, Any], reason: str, state: str = "failed") -> dict[str, Any]:
    return {"doc_id": part["doc_id"], "passage_id": None, "state": state, "error": reason}


def _sent(row: dict[str, Any], part: int, facts_of: Mapping[str, str]) -> dict[str, Any]:
    """Return a row as it travels: of one that the table has as it is, no more than its name."""
    state = row.get("state") or _state(facts_of.get(row["passage_id"]), row)
    if state == "same":
        row = {name: row[name] for name in ("passage_id", "doc_id")}
    elif state == "moved":
        row.pop("input")
    return {**row, "part": part, "state": state}


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
        new = batch.filter(pa.array(is_new))
        lengths = new.column("input_tokens").to_pylist()
        vectors = iter(self._model().documents(new.column("input").to_pylist(), lengths))
        column = pa.array([next(vectors) if new else None for new in is_new], type=pa.list_(pa.float32()))
        now = time.time()
        stamps = pa.array([now if new else None for new in is_new], type=pa.float64())
        inputs = pa.nulls(batch.num_rows, pa.string())
        for name, values in (("vector", column), ("input", inputs), ("embedded_s", stamps)):
            batch = batch.set_column(batch.schema.get_field_index(name), name, values)
        return batch

    def _model(self) -> Embedder:
        if self._embedder is None:
            import torch

            torch.set_num_threads(min(THREADS, os.cpu_count() or 1))  # Ray would leave it one
            self._embedder = Embedder(self._folder, self._dtype, self._batch_size)
        return self._embedder
