"""A graph of passages and the names in them, for questions that no single passage answers.

A question that names A and asks about what A refers to shares no word with the passage about B: only A's passage
links the two. A random walk that starts at what the question names, and at what plain search finds, crosses that
link: passage A → the name B in it → the passage that B is the subject of.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.data import store
from components.retrieval import facts
from components.retrieval.entities import entities, forms

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from scipy.sparse import csr_matrix

KIND = "graph"
COLUMNS = ["passage_id", "text", "title", "symbol"]  # that tell the names in a passage
_MAX_SHARE = 0.02  # of the passages that a name may be in; what is everywhere links nothing with anything
_ALWAYS_KEPT = 20  # … unless the corpus is so small that the share is less than these
_SUBJECT = 4.0  # weight of the link from a name to the passage that is about it; 1 for a mere mention
_BATCH_PASSAGES = 20_000


@dataclass(frozen=True)
class Named:
    """The names in one passage: what it is about, and what it mentions besides."""

    passage_id: str
    subjects: tuple[str, ...]
    mentions: tuple[str, ...]


def named(row: Mapping[str, Any]) -> Named:
    """Return the names in a passage's row. A passage is about its symbol, or else its title."""
    subject = row["symbol"] or ""
    subjects = forms(subject) if subject else entities(row["title"] or "")
    return Named(row["passage_id"], tuple(sorted(subjects)), tuple(sorted(entities(row["text"]) - subjects)))


def names_in(passages: "pa.Table") -> list[Named]:
    """Return the names in each of the passages of a table with the columns ``COLUMNS``."""
    batches = passages.select(COLUMNS).to_batches(_BATCH_PASSAGES)
    return [named(row) for batch in batches for row in batch.to_pylist()]


def build(index_ref: str) -> str:
    """Write the names in an index's passages into the table ``<index>_names`` and return its pinned reference.

    Raises:
        UserError: the index has no passages.
    """
    index = store.pin(index_ref)
    uri, name, _ = store.parse_ref(index)
    rows = [
        {"passage_id": found.passage_id, "subjects": list(found.subjects), "mentions": list(found.mentions)}
        for found in names_in(store.read_arrow(index, columns=COLUMNS, require=True))
    ]
    made = store.overwrite(uri, f"{name}_names", rows, _schema())
    facts.write(index, KIND, {"table": made, "passages": len(rows)})
    return made


class Graph:
    """The names of a corpus in memory, ready to be walked."""

    def __init__(self, passages: Sequence[Named]) -> None:
        """Keep the names that link passages: in two at least, and not in a large share of all."""
        counts = Counter(name for passage in passages for name in {*passage.subjects, *passage.mentions})
        most = max(_ALWAYS_KEPT, int(_MAX_SHARE * len(passages)))
        kept = sorted(name for name, count in counts.items() if 2 <= count <= most)
        self.passage_ids = [passage.passage_id for passage in passages]
        self._place_of = {key: place for place, key in enumerate(self.passage_ids)}
        self.names = {name: len(passages) + place for place, name in enumerate(kept)}  # → their nodes
        self._rarity = {name: math.log(len(passages) / counts[name]) + 1.0 for name in kept}
        self._steps = self._transitions(passages)

    def rank(
        self, query: str, found: Mapping[str, float], n: int | None, restart: float = 0.5
    ) -> list[tuple[str, float]]:
        """Return up to ``n`` (passage_id, share of the walk) best first, for a question and what plain search found.

        None returns all that a walk comes by.

        Half of the walks start at the names in the question, weighted by how rare they are, half at the passages in
        ``found``, weighted by its values; without one of the two all start at the other. With probability
        ``restart`` a walk starts again at each step.
        Source: Gutiérrez et al. 2024, "HippoRAG" (personalised PageRank over names and passages).
        """
        import numpy as np

        start = np.zeros(self._steps.shape[0])
        names = [name for name in entities(query) if name in self.names]
        for seeds in (
            {self.names[name]: self._rarity[name] for name in names},
            {self._place_of[key]: value for key, value in found.items() if key in self._place_of and value > 0},
        ):
            total = sum(seeds.values())
            for place, value in seeds.items():
                start[place] += value / total
        if not start.any():
            return []
        walked = personalised_pagerank(self._steps, start / start.sum(), restart)[: len(self.passage_ids)]
        best = np.argsort(-walked, kind="stable")[:n]
        return [(self.passage_ids[place], float(walked[place])) for place in best if walked[place] > 0]

    def _transitions(self, passages: Sequence[Named]) -> "csr_matrix":
        """Return the column-stochastic matrix of steps between nodes: passages first, then names."""
        import numpy as np
        from scipy.sparse import coo_matrix

        edges = list(self.edges(passages))
        size = len(passages) + len(self.names)
        if not edges:
            return coo_matrix((size, size)).tocsr()
        heads, tails, weights = (np.array(column) for column in zip(*edges, strict=True))
        both = (np.concatenate([heads, tails]), np.concatenate([tails, heads]))
        matrix = coo_matrix((np.concatenate([weights, weights]), both), shape=(size, size)).tocsr()
        leaving = np.asarray(matrix.sum(axis=0)).ravel()
        scale = np.divide(1.0, leaving, out=np.zeros_like(leaving), where=leaving > 0)
        return matrix.multiply(scale[None, :]).tocsr()

    def edges(self, passages: Sequence[Named]) -> Iterator[tuple[int, int, float]]:
        """Yield (a passage's node, a name's node, weight) for each name that links the passages it was made of."""
        for place, passage in enumerate(passages):
            for names, weight in ((passage.subjects, _SUBJECT), (passage.mentions, 1.0)):
                for name in names:
                    if name in self.names:
                        yield place, self.names[name], weight * self._rarity[name]


def personalised_pagerank(steps: "csr_matrix", start: "np.ndarray", restart: float) -> "np.ndarray":
    """Return p with p = restart * start + (1 - restart) * steps @ p; it sums to 1, as ``start`` does.

    Args:
        steps: column-stochastic; a node that nothing leaves has a zero column, and walks from it start again.
        start: where walks begin, sums to 1.

    Source: Page et al. 1999, "The PageRank Citation Ranking", with a personal start. The iteration ends when an
    entry moves by less than 1e-9: each step shrinks the error by the factor 1 - restart.
    """
    import numpy as np

    walked = start.copy()
    for _ in range(200):
        moved = (1 - restart) * (steps @ walked)
        moved += (1.0 - moved.sum()) * start  # the restarts, and what had nowhere to go
        if np.abs(moved - walked).max() < 1e-9:
            return moved
        walked = moved
    return walked


def table_of(index_ref: str) -> str:
    """Return the pinned table of names that was made of this version of the index.

    Raises:
        UserError: there is none.
    """
    return facts.table_of(index_ref, KIND, what="graph of names", option="graph")


def load(index_ref: str) -> Graph:
    """Return the graph that was made of this version of the index. Raises as ``table_of``."""
    rows = store.read(table_of(index_ref))
    return Graph([Named(row["passage_id"], tuple(row["subjects"]), tuple(row["mentions"])) for row in rows])


def _schema() -> "pa.Schema":
    import pyarrow as pa

    names = pa.list_(pa.string())
    return pa.schema([("passage_id", pa.string()), ("subjects", names), ("mentions", names)])
