"""An index over many made-up vectors, timed in a process of its own: build time, recall against exact search, latency.

Usage: ``python -m components.benchmarks.our_vectors SPEC.json``; see ``retrieval.vectors_arguments`` for what the file
holds. It prints one JSON line: ``{"write_s", "build_s", "recall", "seconds": [one for each query]}``.
"""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_ROWS_PER_WRITE = 50_000
_TOPICS = 1000
_SPREAD = 0.6  # of a vector about its topic: neighbours are neither all alike nor all unlike


def main(path: str) -> None:
    """Build and ask as the specification says."""
    from components.data import search, store
    from components.retrieval import exam

    spec = json.loads(Path(path).read_text())
    exact = _Exact(spec)
    started_s = time.monotonic()
    for start, vectors_ND in _vectors(spec, spec["vectors"], "stored"):
        exact.look(start, vectors_ND)
        rows = _table(start, vectors_ND)
        ref = store.write(spec["uri"], "vectors", rows, schema=rows.schema, key=None)
        print(f"progress {start + len(vectors_ND)}/{spec['vectors']} vectors", file=sys.stderr, flush=True)
    built_s = time.monotonic()
    kind = exam.index_for(spec["vectors"]) or "ivf_flat"
    table = store.open_table(search.create_vector_index(ref, exam.cells_for(spec["vectors"]), kind))
    ended_s = time.monotonic()
    refine = search.refinement(table)
    found, seconds = [], []
    for query_D in exact.queries_QD:
        asked_s = time.monotonic()
        rows = search.search_vector(table, query_D.tolist(), spec["k"], refine=refine)
        seconds.append(time.monotonic() - asked_s)
        found.append({row["place"] for row in rows})
    recall = sum(len(own & true) for own, true in zip(found, exact.nearest(), strict=True)) / (spec["k"] * len(found))
    print("progress 1/1 steps", file=sys.stderr, flush=True)
    print(
        json.dumps({"write_s": built_s - started_s, "build_s": ended_s - built_s, "recall": recall, "seconds": seconds})
    )


class _Exact:
    """The true neighbours of the queries, kept up to date while vectors are made, so that these need not be kept."""

    def __init__(self, spec: dict[str, Any]) -> None:
        import numpy as np

        ((_, self.queries_QD),) = list(_vectors(spec, spec["queries"], "asked"))
        self._k = spec["k"]
        self._scores_QK = np.full((len(self.queries_QD), self._k), -np.inf, dtype=np.float32)
        self._places_QK = np.full((len(self.queries_QD), self._k), -1)

    def look(self, start: int, vectors_ND: "np.ndarray") -> None:
        """Take the vectors numbered from ``start`` into account."""
        import numpy as np

        scores = np.concatenate([self._scores_QK, self.queries_QD @ vectors_ND.T], axis=1)
        numbers = np.broadcast_to(np.arange(start, start + len(vectors_ND)), (len(scores), len(vectors_ND)))
        places = np.concatenate([self._places_QK, numbers], axis=1)
        best = np.argpartition(-scores, self._k - 1, axis=1)[:, : self._k]
        self._scores_QK = np.take_along_axis(scores, best, axis=1)
        self._places_QK = np.take_along_axis(places, best, axis=1)

    def nearest(self) -> list[set[int]]:
        """Return the true neighbours of each query."""
        return [set(own.tolist()) for own in self._places_QK]


def _vectors(spec: dict[str, Any], count: int, role: str) -> Any:
    """Yield (number of the first, unit vectors) in portions: topics drawn by chance, and vectors about them."""
    import numpy as np

    dimension = spec["dimension"]
    topics = np.random.default_rng(spec["seed"]).standard_normal((_TOPICS, dimension), dtype=np.float32)
    topics /= np.linalg.norm(topics, axis=1, keepdims=True)
    rng = np.random.default_rng([spec["seed"], role == "asked"])
    for start in range(0, count, _ROWS_PER_WRITE):
        size = min(_ROWS_PER_WRITE, count - start)
        noise = rng.standard_normal((size, dimension), dtype=np.float32) * (_SPREAD / dimension**0.5)
        vectors_ND = topics[rng.integers(0, _TOPICS, size)] + noise
        yield start, vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)


def _table(start: int, vectors_ND: "np.ndarray") -> "pa.Table":
    import pyarrow as pa

    places = pa.array(range(start, start + len(vectors_ND)), pa.int64())
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(vectors_ND.ravel()), vectors_ND.shape[1])
    return pa.table({"place": places, "vector": vectors})


if __name__ == "__main__":
    main(sys.argv[1])
