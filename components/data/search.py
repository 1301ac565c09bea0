"""Full text and vector indexes of LanceDB tables, and what is found by them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from components.config import UserError
from components.data.store import make_ref, open_table, parse_ref, to_rows

if TYPE_CHECKING:
    import pyarrow as pa

VectorIndex = Literal["ivf_flat", "ivf_sq", "ivf_rq", "hnsw_sq"]
_KINDS = {"ivfflat": "ivf_flat", "ivfsq": "ivf_sq", "ivfrq": "ivf_rq", "ivfhnswsq": "hnsw_sq"}
_CELLS_SEARCHED = 16  # of a vector index; near-duplicates lie in the same cell or next to it
# Times as many candidates are compared by their full vectors as are returned: of a million made-up vectors, 10 find all
# of the ten nearest after a byte for each number, 0.65 of them after a bit; 50 find 0.98 then.
_REFINED, _REFINED_BITS = 10, 50


def create_fulltext(ref: str, column: str) -> str:
    """Index a text column of the table's latest version for BM25, or fold new rows in; return the pinned ref.

    Words are stemmed and stop words kept: ``all``, ``any``, ``is`` and ``not`` are names in code.
    """
    from lancedb.index import FTS

    uri, name, _ = parse_ref(ref)
    table = open_table(make_ref(uri, name))
    if not _has_fulltext(table, column) or _unindexed_rows(table, column):
        config = FTS(stem=True, remove_stop_words=False, max_token_length=120, with_position=False)
        table.create_index(column, config=config, replace=True)
    return make_ref(uri, name, table.version)


def require_fulltext(table: Any, column: str) -> None:
    """Refuse an opened table whose column has no full text index: searching it would find nothing.

    Raises:
        UserError: it has none.
    """
    if not _has_fulltext(table, column):
        raise UserError(f"table '{table.name}' has no full text index on '{column}': build the index first")


def search_vector(
    ref: Any,
    vector: Sequence[float],
    k: int,
    where: str | None = None,
    *,
    refine: int | None = None,
    with_vectors: bool = False,
) -> list[dict[str, Any]]:
    """Return the ``k`` nearest rows, best first, each with ``score`` = cosine similarity in [-1, 1].

    ``ref`` is a reference or an opened table; ``where`` is applied before the search. That is exact, unless it is told
    how to ``refine`` what a vector index finds, if there is one: then the cells nearest to the vector are looked at,
    and so many times ``k`` of what they bring are put in order by the vectors as they were before any compression.

    Raises:
        UserError: bad ``where``.
    """
    table = open_table(ref) if isinstance(ref, str) else ref
    query = table.search(list(vector), vector_column_name="vector").distance_type("cosine").limit(k)
    if refine:  # a filter may leave little in the nearest cells: then it goes on to others
        query = query.minimum_nprobes(_CELLS_SEARCHED).maximum_nprobes(0 if where else _CELLS_SEARCHED)
        query = query.refine_factor(refine)
    else:
        query = query.bypass_vector_index()
    rows = to_rows(query.select([*_columns(table, with_vectors), "_distance"]), table, where)
    for row in rows:
        row["score"] = 1.0 - row.pop("_distance")
    return rows


def create_vector_index(ref: str, cells: int, kind: VectorIndex = "ivf_flat") -> str:
    """Index the latest version's vectors by cosine in ``cells`` cells; return the pinned ref.

    ``ivf_flat`` keeps the vectors as they are, ``ivf_sq`` a byte and ``ivf_rq`` a bit of each number, ``hnsw_sq`` a
    byte and a graph of neighbours in each cell.
    """
    from lancedb import index

    uri, name, _ = parse_ref(ref)
    table = open_table(make_ref(uri, name))
    kinds = {"ivf_flat": index.IvfFlat, "ivf_sq": index.IvfSq, "ivf_rq": index.IvfRq, "hnsw_sq": index.HnswSq}
    config = kinds[kind](distance_type="cosine", num_partitions=cells)
    table.create_index("vector", config=config, replace=True)
    return make_ref(uri, name, table.version)


def drop_vector_index(ref: str) -> str:
    """Take the vector index of the latest version away; return the pinned ref."""
    uri, name, _ = parse_ref(ref)
    table = open_table(make_ref(uri, name))
    for index in table.list_indices():
        if index.columns == ["vector"]:
            table.drop_index(index.name)
    return make_ref(uri, name, table.version)


@dataclass(frozen=True)
class FoundIndex:
    """A vector index of a table."""

    kind: str  # a VectorIndex, or LanceDB's own name of another kind
    outside: int  # rows that were added since: a search compares them one by one


def vector_index(ref: Any) -> FoundIndex | None:
    """Return the vector index of a reference or an opened table; None without one."""
    table = open_table(ref) if isinstance(ref, str) else ref
    for index in table.list_indices():
        if index.columns == ["vector"]:
            kind = _KINDS.get(str(index.index_type).replace("_", "").lower(), str(index.index_type))
            return FoundIndex(kind, table.index_stats(index.name).num_unindexed_rows)
    return None


def refinement(table: Any) -> int:
    """Return ``refine`` of ``search_vector`` for an opened table, by the index that it has."""
    found = vector_index(table)
    return _REFINED_BITS if found and found.kind == "ivf_rq" else _REFINED


def search_vectors(table: Any, vectors: Any, k: int) -> pa.Table:
    """Return the ``k`` nearest rows of each of many vectors (an array [n, dimension]) of an opened table.

    Columns: ``query`` (the vector's number), the table's but the vector, ``score`` (cosine similarity). Where the
    table has a vector index, the cells nearest to the vector are searched; without one the search is exact.
    """
    query = table.search(vectors, vector_column_name="vector").distance_type("cosine").nprobes(_CELLS_SEARCHED)
    columns = _columns(table, with_vectors=False)
    found = query.limit(k).select([*columns, "_distance"]).to_arrow()
    score = [1.0 - distance for distance in found.column("_distance").to_pylist()]
    number = found.column("query_index").to_pylist() if len(vectors) > 1 else [0] * found.num_rows
    return found.select(columns).append_column("query", [number]).append_column("score", [score])


def search_text(
    ref: Any, query: str, k: int, where: str | None = None, column: str = "text", *, with_vectors: bool = False
) -> list[dict[str, Any]]:
    """Return the ``k`` best rows by BM25 of ``column``, best first, each with ``score`` (unbounded, > 0).

    ``ref`` is a reference or an opened table. The query is words, no syntax; ``where`` is applied before.

    Raises:
        UserError: the column has no full text index, or bad ``where``.
    """
    from lancedb.query import MatchQuery

    table = open_table(ref) if isinstance(ref, str) else ref
    require_fulltext(table, column)
    columns = _columns(table, with_vectors)
    words = MatchQuery(query, column)  # type: ignore[call-arg]  # its defaults are hidden from mypy
    found = table.search(words, query_type="fts").limit(k).select([*columns, "_score"])
    rows = to_rows(found, table, where)
    for row in rows:
        row["score"] = row.pop("_score")
    return rows


def _columns(table: Any, with_vectors: bool) -> list[str]:
    return [name for name in table.schema.names if with_vectors or name != "vector"]


def _has_fulltext(table: Any, column: str) -> bool:
    return any(index.index_type == "FTS" and index.columns == [column] for index in table.list_indices())


def _unindexed_rows(table: Any, column: str) -> int:
    name = next(index.name for index in table.list_indices() if index.columns == [column])
    return table.index_stats(name).num_unindexed_rows
