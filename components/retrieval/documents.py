"""One row for each document of an index, with a summary and a vector: the upper floor of a hierarchical search.

A question goes to documents first and then to the passages of the best ones, so that a passage is not found for
words that it shares with the question by chance, far from the question's subject.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from components.data import search, store
from components.data.records import content_hash
from components.retrieval import facts
from components.retrieval.fusion import reciprocal_rank_fusion

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

KIND = "documents"
_ROWS_AT_A_TIME = 4096
_FIRST_SENTENCE = re.compile(r".+?[.!?](?=\s|$)")
_SUMMARY_WORDS = 40  # of each of its two sentences
_MOST_NAMED = 10_000  # documents that a condition lists
_DEEPER = 8  # times as many documents are looked at where a condition that cannot be listed leaves too few
_SHARED = ("corpus", "doc_id", "source", "title", "group", "symbol", "metadata", "embedder")  # of all its passages


def build(index_ref: str) -> str:
    """Write the documents of an index into the table ``<index>_documents`` and return its pinned reference.

    A document's vector is the mean of its passages', weighted by their tokens; its summary is its title and the
    first sentences of its first passage and of the one nearest to its vector. Both need no model.

    Raises:
        UserError: the index has no passages.
    """
    index = store.pin(index_ref)
    uri, name, _ = store.parse_ref(index)
    passages = store.read_arrow(index, columns=[*_SHARED, "start", "text", "n_tokens", "vector"], require=True)
    rows = [document(of_one, vectors_nd) for of_one, vectors_nd in _by_document(passages)]
    ref = store.overwrite(uri, f"{name}_documents", rows, _schema(len(rows[0]["vector"])))
    facts.write(index, KIND, {"table": (made := search.create_fulltext(ref, "text")), "documents": len(rows)})
    return made


def document(passages: Sequence[Mapping[str, Any]], vectors_nd: "np.ndarray") -> dict[str, Any]:
    """Return the row of a document with these n passages, given in the order of its text, and their vectors."""
    import numpy as np

    vector = np.asarray([passage["n_tokens"] for passage in passages], dtype=np.float32) @ vectors_nd
    vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    first = passages[0]
    return {
        **{name: first[name] for name in _SHARED},
        "document_id": content_hash(first["corpus"], first["doc_id"]),
        "text": _summary(first, passages[int(np.argmax(vectors_nd @ vector))]),
        "vector": vector,
    }


def table_of(index_ref: str) -> str:
    """Return the pinned documents table that was made of this version of the index.

    Raises:
        UserError: there is none.
    """
    return facts.table_of(index_ref, KIND, what="document vectors", option="documents")


def nearest(table: Any, passages: Any, query: str, vector: "np.ndarray", n: int, where: str | None) -> str | None:
    """Return the condition that a passage is of one of the ``n`` best documents; None where there are none.

    Documents are ranked by their vectors and by the words of their summaries, fused by rank. Only those are taken of
    which some passage meets ``where``: documents have not all columns of their passages, and a page or a section is
    one passage's.

    Args:
        table: the opened table of documents, and
        passages: that of the index, which ``where`` is about.

    Raises:
        UserError: bad ``where``.
    """
    if where is None:
        return _one_of(_ranked(table, query, vector, n, None)[:n]) or None
    holding = _holding(passages, where)
    if len(holding) <= _MOST_NAMED:
        return _one_of(_ranked(table, query, vector, n, _one_of(sorted(holding)) or "false")[:n]) or None
    depth = n
    while True:  # more than a condition can list: the best documents are looked at, as many as it takes
        best = _ranked(table, query, vector, depth, None)
        found = [key for key in best if key in holding]
        if len(found) >= n or len(best) < depth:
            return _one_of(found[:n]) or None
        depth *= _DEEPER


def _holding(passages: Any, where: str) -> set[tuple[str, str]]:
    """Return (corpus, doc_id) of the documents of which some passage meets ``where``."""
    return {(row["corpus"], row["doc_id"]) for row in store.rows(passages, ["corpus", "doc_id"], where)}


def _ranked(table: Any, query: str, vector: "np.ndarray", n: int, where: str | None) -> list[tuple[str, str]]:
    """Return (corpus, doc_id) of the ``n`` best documents by vectors and the ``n`` best by words, best first."""
    by_vector = search.search_vector(table, vector.tolist(), n, where)
    by_words = search.search_text(table, query, n, where)
    rows = {row["document_id"]: row for row in (*by_words, *by_vector)}
    ranked = reciprocal_rank_fusion([[row["document_id"] for row in side] for side in (by_vector, by_words)])
    return [(rows[key]["corpus"], rows[key]["doc_id"]) for key, _ in ranked]


def _one_of(keys: Iterable[tuple[str, str]]) -> str:
    """Return the condition that a row is of one of the documents, each a corpus and an id; '' where there are none."""
    by_corpus: dict[str, list[str]] = {}
    for corpus, doc_id in keys:
        by_corpus.setdefault(corpus, []).append(doc_id)
    return " OR ".join(
        f"(corpus = {store.quote(corpus)} AND {store.one_of('doc_id', ids)})" for corpus, ids in by_corpus.items()
    )


def _by_document(passages: "pa.Table") -> "Iterator[tuple[list[dict[str, Any]], np.ndarray]]":
    """Yield each document's passages in the order of its text, and their vectors [n, dimension].

    Plain rows are made of a few thousand passages at a time: as Python objects, vectors take eight times the memory.
    """
    ordered = passages.sort_by([(name, "ascending") for name in ("corpus", "doc_id", "start")])
    keys = list(zip(ordered.column("corpus").to_pylist(), ordered.column("doc_id").to_pylist(), strict=True))
    begins = [place for place, key in enumerate(keys) if place == 0 or key != keys[place - 1]] + [len(keys)]
    first = 0
    while first < len(begins) - 1:
        last = max(bisect_right(begins, begins[first] + _ROWS_AT_A_TIME) - 1, first + 1)
        part = ordered.slice(begins[first], begins[last] - begins[first])
        vectors = part.column("vector").combine_chunks()
        numbers = vectors.flatten().to_numpy(zero_copy_only=False).reshape(len(vectors), -1)
        rows = part.drop_columns(["vector"]).to_pylist()
        for begin, end in pairwise(place - begins[first] for place in begins[first : last + 1]):
            yield rows[begin:end], numbers[begin:end]
        first = last


def _summary(first: Mapping[str, Any], central: Mapping[str, Any]) -> str:
    openings = [_opening(passage["text"]) for passage in ((first,) if first is central else (first, central))]
    title = first["title"] or ""
    parts = [] if openings[0].startswith(title) else [title]
    return "\n".join([*parts, *openings])


def _opening(text: str) -> str:
    """Return the first sentence of a text, or its first words where that is long."""
    line = " ".join(text.split())
    sentence = _FIRST_SENTENCE.match(line)
    return " ".join((sentence[0] if sentence else line).split()[:_SUMMARY_WORDS])


def _schema(dimension: int) -> "pa.Schema":
    import pyarrow as pa

    names = ["document_id", *_SHARED, "text"]
    return pa.schema([*((name, pa.string()) for name in names), ("vector", pa.list_(pa.float32(), dimension))])
