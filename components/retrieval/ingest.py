"""The stream from documents to rows: read, chunk and embed under Ray Data, one writer on the driver."""

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from components.config import UserError
from components.data import store
from components.data.records import PASSAGE, Document, content_hash, passage_schema
from components.data.sources import SourceConfig, Unreadable, read_part
from components.progress import progress
from components.retrieval.chunkers import ChunkerConfig, chunker
from components.retrieval.embed import EmbedConfig, Embedder, load_tokenizer, max_input_tokens

if TYPE_CHECKING:
    from ray.data import Dataset

_ROWS_PER_BLOCK = 512
_ROWS_PER_COMMIT = 2048
_CPUS_PER_WORKER = 2
_DESCRIPTION = ("start", "end", "source", "title", "group", "symbol", "metadata")  # may change while the text stays
_ROW = pa.schema(
    [
        *PASSAGE,
        ("vector", pa.list_(pa.float32())),  # null where the table has it already
        ("part", pa.int64()),
        ("state", pa.string()),  # new | moved (text known, description not) | same | failed
        ("input", pa.string()),  # what is embedded
        ("error", pa.string()),
    ]
)


@dataclass
class Ingested:
    """What became of a corpus."""

    embedded: int = 0
    tokens: int = 0
    deleted: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Corpus:
    """What a worker needs to turn parts into rows; plain data."""

    name: str
    source: str
    embedder: str  # digest
    embedder_folder: str
    chunker: ChunkerConfig


def ingest(
    uri: str, table: str, config: SourceConfig, parts: list[dict[str, Any]], corpus: Corpus, embed: EmbedConfig
) -> Ingested:
    """Bring the table up to date with a corpus and return what was done.

    Rows whose text is known keep their vector; rows whose text has gone from the corpus are deleted,
    but not those of a part that could not be read this time.

    Raises:
        UserError: no part could be read, or the table has another shape.
    """
    known = _known(uri, table, corpus)
    done = Ingested()
    seen: set[str] = set()
    moved: list[dict[str, Any]] = []
    finished: set[int] = set()
    fresh: list[pa.Table] = []
    for batch in _stream(parts, corpus, embed, {key: facts for key, (_, facts) in known.items() if facts}):
        states = batch.column("state").to_pylist()
        finished.update(batch.column("part").to_pylist())
        seen.update(batch.column("passage_id").to_pylist())
        by_state = {state: batch.take([i for i, s in enumerate(states) if s == state]) for state in set(states)}
        done.failures += by_state.get("failed", batch.slice(0, 0)).select(["doc_id", "error"]).to_pylist()
        moved += by_state.get("moved", batch.slice(0, 0)).to_pylist()
        if "new" in by_state:
            fresh.append(by_state["new"])
            done.embedded += by_state["new"].num_rows
            done.tokens += sum(by_state["new"].column("n_tokens").to_pylist())
        if sum(rows.num_rows for rows in fresh) >= _ROWS_PER_COMMIT:
            _commit(uri, table, fresh)
        progress(len(finished), len(parts), "parts")
    if len(done.failures) == len(parts):
        first = done.failures[0]
        raise UserError(
            f"nothing of the corpus can be read ({len(parts)} parts failed); "
            f"the first is {first['doc_id']}: {first['error']}"
        )
    _commit(uri, table, fresh)
    _rewrite(uri, table, moved)
    failed = {failure["doc_id"] for failure in done.failures}
    gone = [key for key, (doc_id, _) in known.items() if key not in seen and doc_id not in failed]
    if gone:
        store.delete(uri, table, "passage_id", gone)
    done.deleted = len(gone)
    return done


def check_limits(folder: Path, config: ChunkerConfig) -> None:
    """Refuse passages longer than the embedder reads, as it would cut them off without a word.

    Raises:
        UserError: with both numbers.
    """
    limit = max_input_tokens(folder)
    if config.max_tokens > limit:
        raise UserError(
            f"chunker.max_tokens is {config.max_tokens}, but the embedder reads {limit} tokens: give {limit} or fewer"
        )


def _stream(
    parts: list[dict[str, Any]], corpus: Corpus, embed: EmbedConfig, known: dict[str, str]
) -> Iterator[pa.Table]:
    """Yield tables of ``_ROW`` in no particular order, as they leave the embedding actors."""
    import ray

    cpus = int(ray.cluster_resources().get("CPU", 1))
    share = 1.0 if cpus > 1 else 0.5  # a reader and an embedder must fit at the same time
    workers = embed.workers or max(1, cpus // _CPUS_PER_WORKER)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    items = [{"part": number, "payload": json.dumps(part)} for number, part in enumerate(parts)]
    blocks = min(len(parts), max(4 * cpus, len(parts) // 64))
    rows = ray.data.from_items(items, override_num_blocks=blocks).map_batches(
        _read_and_chunk,
        fn_kwargs={"corpus": corpus, "known": ray.put(known)},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=share,
    )
    embedded: Dataset = rows.repartition(target_num_rows_per_block=_ROWS_PER_BLOCK).map_batches(
        _EmbedNew,
        fn_constructor_kwargs={"folder": corpus.embedder_folder, "dtype": embed.dtype, "batch_size": embed.batch_size},
        batch_size=_ROWS_PER_BLOCK,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0 if embed.gpus_per_worker else share,
        num_gpus=embed.gpus_per_worker or None,
    )
    yield from embedded.iter_batches(batch_size=None, batch_format="pyarrow")


def _read_and_chunk(batch: pa.Table, corpus: Corpus, known: Any) -> Iterator[pa.Table]:
    """Turn parts into rows without vectors; a part that cannot be read becomes one row with the reason."""
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
        except Exception as error:  # parsers of foreign formats raise whatever they like
            rows = [_failure(part, f"{type(error).__name__}: {error}")]
        for row in rows:
            row["part"] = item["part"]
            row.setdefault("state", _state(facts_of.get(row["passage_id"]), row))
        yield pa.Table.from_pylist(rows, schema=_ROW)


def _rows(document: Document, corpus: Corpus, cut: Any, tokenizer: Any, room: int) -> Iterator[dict[str, Any]]:
    occurrences: Counter[str] = Counter()
    title_tokens = len(tokenizer.encode(document.title, add_special_tokens=False).ids)
    for span in cut(document.text):
        text = document.text[span.start : span.end]
        occurrences[text] += 1
        # A later piece of a document seldom says what it is about: its title does.
        titled = not text.startswith(document.title) and title_tokens + span.n_tokens <= room
        yield {
            **document.row(),
            "passage_id": content_hash(corpus.name, document.doc_id, text, str(occurrences[text])),
            "corpus": corpus.name,
            "text": text,
            "start": span.start,
            "end": span.end,
            "n_tokens": span.n_tokens,
            "embedder": corpus.embedder,
            "input": f"{document.title}\n{text}" if titled else text,
        }


def _failure(part: dict[str, Any], reason: str) -> dict[str, Any]:
    return {"doc_id": part["doc_id"], "passage_id": None, "state": "failed", "error": reason}


def _state(known: str | None, row: dict[str, Any]) -> str:
    if known is None:
        return "new"
    return "same" if known == _facts(row) else "moved"


def _facts(row: dict[str, Any]) -> str:
    return content_hash(*(json.dumps(row[column]) for column in _DESCRIPTION))


class _EmbedNew:
    """An actor that fills in the vectors of new rows; it loads its model when it meets the first."""

    def __init__(self, folder: str, dtype: str, batch_size: int) -> None:
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

            torch.set_num_threads(min(_CPUS_PER_WORKER, os.cpu_count() or 1))  # Ray would leave it one
            self._embedder = Embedder(self._folder, self._dtype, self._batch_size)
        return self._embedder


def _known(uri: str, table: str, corpus: Corpus) -> dict[str, tuple[str, str]]:
    """Return passage_id → (doc_id, hash of its description) of the corpus; "" where another embedder made it."""
    ref = store.make_ref(uri, table)
    if not store.exists(ref):
        return {}
    columns = ["passage_id", "doc_id", "embedder", *_DESCRIPTION]
    rows = store.read(ref, columns=columns, where=f"corpus = {store.quote(corpus.name)}")
    return {
        row["passage_id"]: (row["doc_id"], _facts(row) if row["embedder"] == corpus.embedder else "") for row in rows
    }


def _commit(uri: str, table: str, fresh: list[pa.Table]) -> None:
    """Upsert the gathered rows in one commit and empty the list."""
    if fresh:
        rows = pa.concat_tables(fresh)
        schema = passage_schema(len(rows.column("vector")[0]))
        store.write(uri, table, rows.select(schema.names), schema=schema, key="passage_id")
        fresh.clear()


def _rewrite(uri: str, table: str, moved: list[dict[str, Any]]) -> None:
    """Give rows their new positions and titles; their vectors stay."""
    for start in range(0, len(moved), _ROWS_PER_COMMIT):
        rows = {row["passage_id"]: row for row in moved[start : start + _ROWS_PER_COMMIT]}
        ids = ", ".join(store.quote(key) for key in rows)
        kept = store.read_arrow(
            store.make_ref(uri, table), columns=["passage_id", "vector"], where=f"passage_id IN ({ids})"
        )
        schema = passage_schema(kept.schema.field("vector").type.list_size)
        update = [{**rows[row["passage_id"]], "vector": row["vector"]} for row in kept.to_pylist()]
        store.write(
            uri, table, [{name: row[name] for name in schema.names} for row in update], schema=schema, key="passage_id"
        )
