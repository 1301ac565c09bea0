"""Brings an index up to date with a corpus: a Ray Data stream of rows, and one writer on the driver."""

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from components.config import UserError
from components.data import store, versions, worker_tasks
from components.data.schemas import PASSAGE, passage_schema
from components.progress import progress
from components.retrieval.chunkers import ChunkerConfig
from components.retrieval.embed import EmbedConfig, check_embedder, max_input_tokens
from components.retrieval.passages import DESCRIPTION, THREADS, Corpus, EmbedNew, facts_hash, read_and_chunk
from components.retrieval.vanished import Reading

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger(__name__)
_ROWS_PER_BLOCK = 1024  # the more, the more alike in length are those that share a batch
_ROWS_PER_COMMIT = 2048
_START_UP_S, _TOKENS_PER_S = 15, 12_000  # measured with all-MiniLM-L6-v2 in bfloat16


@dataclass
class Ingested:
    """What became of a corpus."""

    embedded: int = 0
    tokens: int = 0
    deleted: int = 0
    seconds: float = 0.0
    blocks: list[tuple[int, float]] = field(
        default_factory=list
    )  # rows embedded in each, and seconds since the one before
    failures: list[dict[str, str]] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """Return the figures; ``tokens_per_s`` counts embedded tokens over all of the time, start-up too."""
        return {
            "embedded": self.embedded,
            "deleted": self.deleted,
            "parts_not_read": len(self.failures),
            "seconds": self.seconds,
            "tokens_per_s": self.tokens / max(self.seconds, 1e-9),
        }

    def failures_jsonl(self) -> str:
        """Return a line for each part that was put aside, {"doc_id", "reason"}."""
        return "".join(json.dumps(failure, ensure_ascii=False) + "\n" for failure in self.failures)


def ingest(uri: str, table: str, parts: list[dict[str, Any]], corpus: Corpus, embed: EmbedConfig) -> Ingested:
    """Bring the table up to date with a corpus and return what was done.

    Rows whose text is known keep their vector; rows whose text has gone from the corpus are deleted,
    but not those of a part that could not be read this time. Whoever pins the table meanwhile gets it as it was;
    ``versions.publish`` shows what was done.

    Raises:
        UserError: no part could be read, the table has another shape, or it would hold vectors of two embedders.
    """
    started = time.monotonic()
    _refuse_other_vectors(uri, table, corpus)
    is_there = versions.begin(uri, table, corpus.name)
    if is_there:
        versions.widen(uri, table, PASSAGE)
    known = _known(uri, table, corpus)
    done, writer = Ingested(), _Writer(uri, table, None if is_there else corpus.name)
    reading = Reading(parts)
    finished: set[int] = set()
    began, stamps = time.time(), list[tuple[float, int]]()
    for batch in _stream(parts, corpus, embed, {key: facts for key, (_, facts) in known.items() if facts}):
        states = batch.column("state").to_pylist()
        finished.update(batch.column("part").to_pylist())
        reading.note(batch)
        by_state = {state: batch.take([i for i, s in enumerate(states) if s == state]) for state in set(states)}
        for state in {"failed", "gone"} & set(by_state):
            for failure in by_state[state].select(["doc_id", "error"]).to_pylist():
                done.failures.append({"doc_id": failure["doc_id"], "reason": failure["error"]})
        if "moved" in by_state:
            writer.move(by_state["moved"].to_pylist())
        if "new" in by_state:
            writer.add(by_state["new"])
            done.embedded += by_state["new"].num_rows
            done.tokens += sum(by_state["new"].column("n_tokens").to_pylist())
            stamps.append((max(by_state["new"].column("embedded_s").to_pylist()), by_state["new"].num_rows))
        progress(len(finished), len(parts), "parts")
    if len(done.failures) == len(parts):
        first = done.failures[0]
        raise UserError(
            f"nothing of the corpus can be read ({len(parts)} parts failed); "
            f"the first is {first['doc_id']}: {first['reason']}"
        )
    writer.flush()
    ends = sorted(stamps)  # by the workers' clocks
    if ends:
        start = (min(began, ends[0][0]), 0)
        done.blocks = [(rows, after - before) for (before, _), (after, rows) in pairwise([start, *ends])]
    gone, left = reading.divided({key: doc_id for key, (doc_id, _) in known.items()})
    if foreign := [key for key in left if not known[key][1]]:
        raise UserError(
            f"{len(foreign)} passages have vectors of another embedder, and what they are from cannot be read to make "
            f"new ones ({', '.join(reading.unread()[:3])}): mend it, take it out of the corpus, or give another table"
        )
    if left:
        logger.warning("%d passages stay as they were: they may be of what could not be read", len(left))
    if gone:
        store.delete(uri, table, "passage_id", gone)
    done.deleted = len(gone)
    done.seconds = time.monotonic() - started
    return done


def check(folder: Path, config: ChunkerConfig) -> None:
    """Refuse an embedder that we cannot use, and passages longer than it reads: it would cut them off silently.

    Raises:
        UserError: with what is missing, or both numbers.
    """
    check_embedder(folder)
    limit = max_input_tokens(folder)
    if config.max_tokens > limit:
        raise UserError(
            f"chunker.max_tokens is {config.max_tokens}, but the embedder reads {limit} tokens: give {limit} or fewer"
        )


def estimate(parts: list[dict[str, Any]]) -> dict[str, object]:
    """Return the size of a corpus and how long a first run takes; a second one embeds only what is new."""
    size = sum(_bytes(part) for part in parts)
    tokens = size // 4
    return {
        "parts": len(parts),
        "bytes": size,
        "tokens, about": tokens,
        "seconds on two CPUs, about": round(_START_UP_S + tokens / _TOKENS_PER_S),
        "memory of an embedding actor, about": "1.5 GiB",
    }


def _bytes(part: dict[str, Any]) -> int:
    if "length" in part:
        return part["length"]
    return os.path.getsize(part["path"]) if "path" in part else len(json.dumps(part))


def items_of(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parts, numbered, as ``passages.chunk_parts`` takes them."""
    return [{"part": number, "payload": json.dumps(part)} for number, part in enumerate(parts)]


def _stream(
    parts: list[dict[str, Any]], corpus: Corpus, embed: EmbedConfig, known: dict[str, str]
) -> Iterator[pa.Table]:
    """Yield tables of ``passages.ROW`` in no particular order, as they leave the embedding actors."""
    import ray

    offered = ray.cluster_resources()
    cpus = int(offered.get("CPU", 1))
    share = 1.0 if cpus > 1 else 0.5  # a reader and an embedder must fit at the same time
    on_gpus = int(offered.get("GPU", 0) / embed.gpus_per_worker) if embed.gpus_per_worker else None
    workers = embed.workers or max(1, cpus // THREADS if on_gpus is None else on_gpus)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    blocks = max(1, min(len(parts), max(4 * cpus, len(parts) // 64)))  # a cluster's pools may have no node yet
    rows = ray.data.from_items(items_of(parts), override_num_blocks=blocks).map_batches(
        read_and_chunk,  # type: ignore[arg-type]  # takes its keyword arguments, too
        fn_kwargs={"corpus": corpus, "known": ray.put(known)},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=share,
    )
    embedded: Dataset = rows.repartition(target_num_rows_per_block=_ROWS_PER_BLOCK).map_batches(
        EmbedNew,
        fn_constructor_kwargs={"folder": corpus.embedder_folder, "dtype": embed.dtype, "batch_size": embed.batch_size},
        batch_size=_ROWS_PER_BLOCK,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=0 if embed.gpus_per_worker else share,
        num_gpus=embed.gpus_per_worker or None,
    )
    with worker_tasks.unwrapped():
        yield from embedded.iter_batches(batch_size=None, batch_format="pyarrow")


def _refuse_other_vectors(uri: str, table: str, corpus: Corpus) -> None:
    """Refuse a table in which other corpora have vectors of another embedder: one query cannot be near to both.

    Raises:
        UserError: with such a corpus.
    """
    ref = store.make_ref(uri, table)
    if not store.exists(ref):
        return
    other = f"corpus != {store.quote(corpus.name)} AND embedder != {store.quote(corpus.embedder)}"
    if rows := store.read(store.pin(ref), columns=["corpus"], where=other):  # what is half done is taken back
        raise UserError(
            f"the corpus {rows[0]['corpus']} in the table {table} was embedded by another model, and vectors of two "
            "models cannot be searched together: give embed.model that one, or another table"
        )


def _known(uri: str, table: str, corpus: Corpus) -> dict[str, tuple[str, str]]:
    """Return passage_id → (doc_id, hash of its description) of the corpus; "" where another embedder made it."""
    ref = store.make_ref(uri, table)
    if not store.exists(ref):
        return {}
    columns = ["passage_id", "doc_id", "embedder", *DESCRIPTION]
    rows = store.read(ref, columns=columns, where=f"corpus = {store.quote(corpus.name)}")
    return {
        row["passage_id"]: (row["doc_id"], facts_hash(row) if row["embedder"] == corpus.embedder else "")
        for row in rows
    }


class _Writer:
    """The one process that commits: gathers rows until they are worth a commit."""

    def __init__(self, uri: str, table: str, maker: str | None) -> None:
        """Write to a table; ``maker`` is whose table it will be, where there is none yet."""
        self._uri, self._table, self._maker = uri, table, maker
        self._fresh: list[pa.Table] = []
        self._moved: list[dict[str, Any]] = []

    def add(self, rows: pa.Table) -> None:
        """Take rows that have new vectors."""
        self._fresh.append(rows)
        if sum(own.num_rows for own in self._fresh) >= _ROWS_PER_COMMIT:
            self._commit()

    def move(self, rows: list[dict[str, Any]]) -> None:
        """Take rows whose vectors the table has, to give them new positions and titles."""
        self._moved += rows
        while len(self._moved) >= _ROWS_PER_COMMIT:
            self._rewrite()

    def flush(self) -> None:
        """Write what is left."""
        if self._fresh:
            self._commit()
        while self._moved:
            self._rewrite()

    def _commit(self) -> None:
        rows = pa.concat_tables(self._fresh)
        schema = passage_schema(len(rows.column("vector")[0]))
        if self._maker is not None:
            versions.begin(self._uri, self._table, self._maker, schema)
            self._maker = None
        store.write(self._uri, self._table, rows.select(schema.names), schema=schema, key="passage_id")
        self._fresh.clear()

    def _rewrite(self) -> None:
        now, self._moved = self._moved[:_ROWS_PER_COMMIT], self._moved[_ROWS_PER_COMMIT:]
        rows = {row["passage_id"]: row for row in now}
        ref = store.make_ref(self._uri, self._table)
        kept = store.read_arrow(ref, columns=["passage_id", "vector"], where=store.one_of("passage_id", rows))
        schema = passage_schema(kept.schema.field("vector").type.list_size)
        update = [{**rows[row["passage_id"]], "vector": row["vector"]} for row in kept.to_pylist()]
        changed = [{name: row[name] for name in schema.names} for row in update]
        store.write(self._uri, self._table, changed, schema=schema, key="passage_id")
