"""Groups of passages that share names, with a summary each: what a broad question is about stands in no one passage.

"What does this library do about time zones?" is answered by no passage, but by what many say together. The graph of
names falls into groups that are linked densely within and sparsely between; each gets a summary while the index is
examined, and a search for a broad question brings the summaries that fit before the passages.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import Field, UserError
from components.data import search, store
from components.data.records import content_hash
from components.models import sources
from components.progress import progress
from components.retrieval import facts
from components.retrieval.fusion import reciprocal_rank_fusion
from components.retrieval.generator import Generate
from components.retrieval.graph import COLUMNS, Graph, Named, names_in
from components.retrieval.summaries import Summaries, summary

if TYPE_CHECKING:
    import networkx
    import numpy as np
    import pyarrow as pa

KIND = "communities"
_PREFIX = "community:"  # of summaries' ids, by which they are told from passages
_SEED = 0  # of the search for groups: the same index has the same groups
_NAMES_KEPT, _NAMES_IN_TITLE, _SOURCES_NAMED = 12, 3, 3
_CANDIDATES = 20  # summaries that are looked at first where some may be hidden,
_DEEPER = 8  # and how many times as many where too few are left
logger = logging.getLogger(__name__)


class Communities(Summaries):
    """Which groups are made, and how they are summarized."""

    smallest: int = Field(3, ge=2, description="passages that a group has at least; smaller ones get no summary")
    largest: int = Field(40, ge=2, description="passages from which on a group is divided into smaller ones as well")


@dataclass(frozen=True)
class Community:
    """A group of passages, and the names that hold it together."""

    places: tuple[int, ...]  # of its passages in the list that was divided
    names: tuple[str, ...]  # the most linked ones first
    level: int  # 0: not part of another group
    parent: int | None  # its place in the list of groups


def divide(passages: Sequence[Named], smallest: int, largest: int) -> list[Community]:
    """Return the groups of passages that share names, each before its parts.

    A group with more than ``largest`` passages is divided again by itself, as long as it falls into parts.
    Source: Blondel et al. 2008, "Fast unfolding of communities in large networks" (Louvain), on the graph of passages
    and names; Edge et al. 2024, "From Local to Global: A Graph RAG Approach", for groups within groups (Leiden there).
    """
    import networkx

    graph = Graph(passages)
    net: networkx.Graph = networkx.Graph()
    net.add_weighted_edges_from(graph.edges(passages))
    name_of = {node: name for name, node in graph.names.items()}
    found: list[Community] = []
    waiting: list[tuple[networkx.Graph, int | None]] = [(net, None)]
    while waiting:
        part, parent = waiting.pop()
        level = 0 if parent is None else found[parent].level + 1
        for nodes in _groups(part):
            places = tuple(sorted(node for node in nodes if node < len(passages)))
            if len(places) < smallest or (parent is not None and places == found[parent].places):
                continue
            own = part.subgraph(nodes)
            found.append(Community(places, _names(own, name_of), level, parent))
            if len(places) > largest:
                waiting.append((own.copy(), len(found) - 1))
    return found


def build(index_ref: str, embedder: Path, config: Communities, generate: Generate | None = None) -> str:
    """Write the groups of an index with their summaries into the table ``<index>_communities``; return its reference.

    A group's summary is made of its passages, those nearest to their mean vector first, or of its parts' summaries. A
    group for which the model writes nothing is left out, and counted in the fact that is kept with the version.

    Args:
        embedder: folder of the model that made the index's vectors, and makes those of the summaries.
        generate: the language model, where ``config.by`` says so.

    Raises:
        UserError: the index has no passages, they share too few names, the embedder is another one, or the language
            model does not answer; nothing is written then.
    """
    from components.retrieval.embed import Embedder

    if config.by == "model" and generate is None:
        raise UserError("a language model is to write the summaries, and there is none: set language_model or by")
    index = store.pin(index_ref)
    uri, name, _ = store.parse_ref(index)
    columns = ["corpus", "source", "n_tokens", "embedder", "vector"]
    passages = store.read_arrow(index, columns=[*COLUMNS, *columns], require=True)
    digest = sources.digest(embedder)
    if passages.column("embedder")[0].as_py() != digest:
        raise UserError(f"the vectors of {index} were made by another embedder than {embedder}: use that one")
    groups = divide(names_in(passages), config.smallest, config.largest)
    if not groups:
        raise UserError(
            f"the passages of {index} share too few names for groups of {config.smallest}: leave communities out"
        )
    rows = _rows(groups, passages, config, generate)
    if not rows:
        raise UserError(f"the language model wrote none of {len(groups)} summaries: try another one, or by=sentences")
    vectors = Embedder(embedder).documents([f"{row['title']}\n{row['text']}" for row in rows])
    rows = [{**row, "embedder": digest, "vector": vector} for row, vector in zip(rows, vectors, strict=True)]
    ref = store.overwrite(uri, f"{name}_communities", rows, _schema(vectors.shape[1]))
    made = search.create_fulltext(ref, "text")
    left_out = len(groups) - len(rows)
    if left_out:
        logger.warning("%d of %d groups have no summary: the language model wrote nothing", left_out, len(groups))
    author = config.language_model.model if config.language_model else None
    kept = {"table": made, "communities": len(rows), "left_out": left_out, "by": config.by, "model": author}
    facts.write(index, KIND, kept)
    return made


def table_of(index_ref: str) -> str:
    """Return the pinned table of summaries that was made of this version of the index.

    Raises:
        UserError: there is none.
    """
    return facts.table_of(index_ref, KIND, what="summaries of communities", option="communities")


def is_summary(passage_id: str) -> bool:
    """Return whether a hit is the summary of a group, and no passage of a document."""
    return passage_id.startswith(_PREFIX)


def nearest(
    table: Any,
    passages: Any,
    query: str,
    vector: "np.ndarray",
    n: int,
    where: str | None,
    *,
    with_vectors: bool = False,
) -> list[dict[str, Any]]:
    """Return the rows of the ``n`` summaries that fit a query best, best first, with ``score``, by vector and by words.

    A summary says something of each of its passages, so that one of which ``where`` hides a passage is hidden, too.

    Args:
        table: the opened table of summaries, and
        passages: that of the index, which ``where`` is about.
    """
    depth, met = n, set[str]()
    if where is not None:
        depth = max(n, _CANDIDATES)
        met = {row["passage_id"] for row in store.rows(passages, ["passage_id"], where)}
    while True:
        sides = [
            search.search_vector(table, vector.tolist(), depth, with_vectors=with_vectors),
            search.search_text(table, query, depth, with_vectors=with_vectors),
        ]
        rows = {row["passage_id"]: row for side in sides for row in side}
        ranked = reciprocal_rank_fusion([[row["passage_id"] for row in side] for side in sides])
        found = [{**rows[key], "score": score} for key, score in ranked]
        shown = found if where is None else [row for row in found if met.issuperset(row["members"])]
        if len(shown) >= n or max(map(len, sides)) < depth:  # enough, or all there are
            return shown[:n]
        depth *= _DEEPER


def _groups(net: "networkx.Graph") -> list[set[int]]:
    """Return the densely linked groups of nodes, in an order that only the graph decides."""
    from networkx.algorithms.community import louvain_communities

    return sorted(louvain_communities(net, weight="weight", seed=_SEED), key=min) if net.number_of_edges() else []


def _names(net: "networkx.Graph", name_of: Mapping[int, str]) -> tuple[str, ...]:
    """Return the names in a group, the most linked ones first; of a dotted name and its last part the first one."""
    linked = sorted(net.degree(weight="weight"), key=lambda pair: (-pair[1], pair[0]))
    kept: list[str] = []
    for node, _ in linked:
        name = name_of.get(node)
        if name and not any(name.endswith(f".{other}") or other.endswith(f".{name}") for other in kept):
            kept.append(name)
    return tuple(kept[:_NAMES_KEPT])


def _rows(
    groups: Sequence[Community], passages: "pa.Table", config: Communities, generate: Generate | None
) -> list[dict[str, Any]]:
    """Return a row without its vector for each group that has a summary, parts after what they are part of."""
    children: dict[int, list[int]] = {}
    for number, group in enumerate(groups):
        if group.parent is not None:
            children.setdefault(group.parent, []).append(number)
    rows: dict[int, dict[str, Any]] = {}
    for number in reversed(range(len(groups))):  # parts first: what they are part of is summarized by theirs
        own = passages.take(list(groups[number].places))
        parts = [rows[child]["text"] for child in children.get(number, ()) if child in rows]
        texts = parts if len(parts) > 1 else _central(own)
        said = summary(texts, groups[number].names, config, generate)
        progress(len(groups) - number, len(groups), "summaries")
        if said:
            rows[number] = _row(groups[number], own, said)
    ids = {number: row["passage_id"] for number, row in rows.items()}
    ordered = sorted(rows)
    return [{**rows[n], "parent": ids.get(-1 if (up := groups[n].parent) is None else up)} for n in ordered]


def _central(passages: "pa.Table") -> list[str]:
    """Return the texts of passages, those nearest to their mean vector, weighted by tokens, first."""
    import numpy as np

    vectors = passages.column("vector").combine_chunks()
    vectors_nd = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
    mean = passages.column("n_tokens").to_numpy().astype(np.float32) @ vectors_nd
    texts = passages.column("text").to_pylist()
    return [texts[place] for place in np.argsort(-(vectors_nd @ mean), kind="stable")]


def _row(group: Community, passages: "pa.Table", said: str) -> dict[str, Any]:
    """Return a group as a search returns passages, with what it is a group of."""
    members = passages.column("passage_id").to_pylist()
    corpora, places = (
        sorted({one or "" for one in passages.column(name).to_pylist()}) for name in ("corpus", "source")
    )
    key = f"{_PREFIX}{content_hash(*sorted(members))}"
    more = ", …" if len(places) > _SOURCES_NAMED else ""
    return {
        "passage_id": key,
        "corpus": corpora[0] if len(corpora) == 1 else "",
        "doc_id": key,
        "text": said,
        "title": ", ".join(group.names[:_NAMES_IN_TITLE]),
        "source": f"{len(members)} passages of {', '.join(places[:_SOURCES_NAMED])}{more}",
        "group": "",
        "symbol": None,
        "start": 0,
        "end": len(said),
        "level": group.level,
        "names": list(group.names),
        "members": members,
    }


def _schema(dimension: int) -> "pa.Schema":
    import pyarrow as pa

    names = ["passage_id", "corpus", "doc_id", "text", "title", "source", "group", "symbol", "parent", "embedder"]
    numbers, lists = ["start", "end", "level"], ["names", "members"]
    return pa.schema(
        [
            *((name, pa.string()) for name in names),
            *((name, pa.int64()) for name in numbers),
            *((name, pa.list_(pa.string())) for name in lists),
            ("vector", pa.list_(pa.float32(), dimension)),
        ]
    )
