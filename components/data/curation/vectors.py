"""Vectors of texts, kept in LanceDB so that another run need not embed them again, and searches among them.

Array suffixes: N texts, D numbers of a vector.
"""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.data import search, store
from components.data.records import content_hash
from components.progress import progress

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_TEXTS_PER_COMMIT = 1024
_ROWS_PER_WRITE = 4096
_QUERIES_PER_BATCH = 256


@dataclass(frozen=True)
class Embedding:
    """How texts become vectors, as the workflow hands it over."""

    name: str  # tells embedders apart: a digest of the model
    embed: "Callable[[Sequence[str]], np.ndarray]"  # texts → float32 unit vectors [N, D]


@dataclass(frozen=True)
class Vectors:
    """The unit vectors of a set of texts."""

    places: Mapping[str, int]
    matrix_ND: "np.ndarray"

    def of(self, texts: Sequence[str]) -> "np.ndarray":
        """The vectors of these texts, in their order: float32 [len(texts), D]."""
        return self.matrix_ND[[self.places[content_hash(text)] for text in texts]]


def embed_texts(uri: str, texts: Iterable[str], embedding: Embedding) -> Vectors:
    """The vectors of the texts; what the embedding's table does not have yet is embedded and added.

    Every text is embedded once however often it occurs; an interrupted run goes on where it stopped. The result
    takes 4 * D bytes a text: 460 MB for 100,000 pairs whose texts all differ and 384 numbers a vector.
    """
    import numpy as np
    import pyarrow as pa

    unique = {content_hash(text): text for text in texts}
    table = f"text_vectors_{content_hash(embedding.name)[:16]}"
    ref = store.make_ref(uri, table)
    known: set[str] = set()
    if store.exists(ref):
        known = set(store.read_arrow(ref, columns=["text_id"]).column("text_id").to_pylist())
    # Longer texts with longer ones: a batch is padded to its longest.
    missing = sorted((key for key in unique if key not in known), key=lambda key: (len(unique[key]), key))
    for start in range(0, len(missing), _TEXTS_PER_COMMIT):
        keys = missing[start : start + _TEXTS_PER_COMMIT]
        vectors_ND = embedding.embed([unique[key] for key in keys])
        rows = _table({"text_id": pa.array(keys)}, vectors_ND)
        store.write(uri, table, rows, schema=rows.schema, key=None)
        progress(start + len(keys), len(missing), "texts")
    found = store.read_arrow(ref) if unique else None
    if found is None:
        return Vectors({}, np.empty((0, 1), dtype=np.float32))
    places = {key: place for place, key in enumerate(found.column("text_id").to_pylist()) if key in unique}
    matrix_ND = _matrix(found.column("vector").take(list(places.values())))
    return Vectors({key: number for number, key in enumerate(places)}, matrix_ND)


def nearest(
    stored_ND: "np.ndarray", queries_ND: "np.ndarray", count: int, scratch: Path, exact_below: int = 5_000
) -> Iterator[tuple[int, int, float]]:
    """Yield (query, stored, cosine similarity) of each query's ``count`` nearest stored vectors, by row number.

    From ``exact_below`` stored vectors on an inverted index is searched: sqrt(N) cells, of which the 16 nearest are
    looked at, so that all queries together cost N ** 1.5, not N ** 2. It is made for what is very near: two vectors
    with a cosine of 0.95 lie in the same or in neighbouring cells; farther neighbours may be missed.
    """
    import pyarrow as pa

    stored_N, queries_N = len(stored_ND), len(queries_ND)
    if not stored_N or not queries_N:
        return
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        for start in range(0, stored_N, _ROWS_PER_WRITE):
            part_ND = stored_ND[start : start + _ROWS_PER_WRITE]
            rows = _table({"place": pa.array(range(start, start + len(part_ND)), pa.int64())}, part_ND)
            ref = store.write(folder, "stored", rows, schema=rows.schema, key=None)
        if stored_N >= exact_below:
            ref = search.create_vector_index(ref, cells=int(stored_N**0.5))
        table = store.open_table(ref)
        for start in range(0, queries_N, _QUERIES_PER_BATCH):
            found = search.search_vectors(table, queries_ND[start : start + _QUERIES_PER_BATCH], count)
            columns = (found.column(name).to_pylist() for name in ("query", "place", "score"))
            for query, place, score in zip(*columns, strict=True):
                yield start + query, place, score
            progress(min(start + _QUERIES_PER_BATCH, queries_N), queries_N, "searches")


def _table(columns: "dict[str, pa.Array]", vectors_ND: "np.ndarray") -> "pa.Table":
    import numpy as np
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(vectors_ND, dtype=np.float32).ravel())
    return pa.table({**columns, "vector": pa.FixedSizeListArray.from_arrays(flat, vectors_ND.shape[1])})


def _matrix(column: "pa.ChunkedArray") -> "np.ndarray":
    """A column of vectors as an array."""
    import numpy as np

    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(chunks).reshape(len(column), -1)
