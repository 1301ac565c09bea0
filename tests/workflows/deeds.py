"""A small index to search and to ask about: what functions with speaking names do to things."""

from pathlib import Path

from components.data import search, store
from components.data.records import PASSAGE, passage_schema
from components.models.sources import digest
from components.retrieval.embed import Embedder

THINGS = (
    "queue",
    "heap",
    "lock",
    "socket",
    "thread",
    "buffer",
    "cursor",
    "parser",
    "timer",
    "cache",
    "folder",
    "token",
)
DEEDS = {
    "Close": "releases what it holds",
    "Copy": "keeps the times of change",
    "Merge": "puts equal entries together",
    "Rotate": "moves every entry by one place",
    "Validate": "finds entries that break a rule",
    "Compress": "makes it smaller without losing anything",
    "Encrypt": "hides its contents from strangers",
    "Count": "tells how many entries there are",
}


def write_deeds(uri: str, minilm: Path) -> str:
    """Write 96 passages, a document each, with vectors and full text into the tables of ``uri``; return the index."""
    rows = []
    for thing in THINGS:
        for deed, effect in DEEDS.items():
            name = f"{thing}.{deed.lower()}"
            text = (
                f"{name}()\n\n{deed} the {thing}, which {effect}. Raises {thing.title()}Error if the {thing} is broken."
            )
            shared = dict.fromkeys(PASSAGE.names, name) | {"corpus": "c", "metadata": '{"kind": "function"}'}
            place = {"group": thing, "start": 0, "end": len(text), "n_tokens": 25, "embedder": digest(minilm)}
            rows.append(shared | place | {"text": text})
    vectors = Embedder(minilm).documents([row["text"] for row in rows])
    rows = [row | {"vector": vector} for row, vector in zip(rows, vectors, strict=True)]
    store.write(uri, "passages", rows, schema=passage_schema(384), key="passage_id")
    return search.create_fulltext(f"{uri}#passages", "text")
