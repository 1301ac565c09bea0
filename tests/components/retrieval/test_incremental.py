"""A corpus of which one passage in a hundred is added, changed and deleted: readers see all of it or nothing."""

import json
import random
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from components.data import store, versions
from components.data.sources import list_parts
from components.data.sources.jsonl import Jsonl
from components.retrieval import ingest as ingestion
from components.retrieval.chunkers.tokens import Tokens
from components.retrieval.embed import EmbedConfig
from components.retrieval.passages import EmbedNew, chunk_parts
from tests.components.retrieval.tiny_embedder import make_tiny_embedder

WORDS = [f"{a}{b}" for a in ("al", "be", "ga", "de", "ep", "ze", "et") for b in ("pha", "ta", "mma", "lta", "silon")]
PER_DOCUMENT = 10


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_embedder(tmp_path_factory.mktemp("embedder"), WORDS)


def _document(number: int, edition: int = 0) -> list[str]:
    """Ten paragraphs, a passage each; another edition differs in one of them."""
    rng = random.Random(number)
    paragraphs = [f"{number} {place} {' '.join(rng.choices(WORDS, k=12))}." for place in range(PER_DOCUMENT)]
    if edition:
        paragraphs[edition % PER_DOCUMENT] = f"{number} e{edition} {' '.join(rng.choices(WORDS, k=11))}."
    return paragraphs


def _ingest(folder: Path, name: str, embedder: Path, documents: dict[int, list[str]]) -> ingestion.Ingested:
    path = folder / f"{name}.jsonl"
    lines = (json.dumps({"id": key, "text": "\n\n".join(own)}) + "\n" for key, own in documents.items())
    path.write_text("".join(lines))
    corpus = ingestion.Corpus("docs", "jsonl", "tiny", str(embedder), Tokens(max_tokens=20, overlap=0))
    embed = EmbedConfig(dtype="float32", workers=1, batch_size=256)
    return ingestion.ingest(str(folder / "db"), name, list_parts(Jsonl(name="jsonl", path=str(path))), corpus, embed)


def _columns(ref: str) -> pa.Table:
    rows = store.read_arrow(ref).drop_columns(["source"])  # that names the file
    return rows.sort_by("passage_id")


def _in_this_process(parts, corpus, embed, known):
    """What Ray Data streams, without a cluster: the same functions, one block after the other."""
    embedding = EmbedNew(corpus.embedder_folder, embed.dtype, embed.batch_size)
    for table in chunk_parts(ingestion.items_of(parts), corpus, known):
        yield embedding(table)


@pytest.mark.parametrize(
    "passages", [600, pytest.param(100_000, marks=[pytest.mark.exhaustive, pytest.mark.timeout(3000)])]
)
def test_one_in_a_hundred_changes(
    passages: int, embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    if passages > 1000:
        request.getfixturevalue("ray_cluster")
    else:
        monkeypatch.setattr(ingestion, "_stream", _in_this_process)
    total = passages // PER_DOCUMENT
    some = max(1, total // 100)
    documents = {number: _document(number) for number in range(total)}
    uri, ref = str(tmp_path / "db"), f"{tmp_path}/db#followed"
    first = _ingest(tmp_path, "followed", embedder, documents)
    versions.publish(uri, "followed", "docs")
    assert first.embedded == store.count(ref) == passages

    changed = {number: _document(number, edition=3) for number in range(some)}
    added = {total + number: _document(total + number) for number in range(some)}
    kept = {number: own for number, own in documents.items() if number < total - some}
    after = {**kept, **changed, **added}

    before = {row["passage_id"] for row in store.read(store.pin(ref), columns=["passage_id"])}
    seen: list[set[str]] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.05):
            seen.append({row["passage_id"] for row in store.read(store.pin(ref), columns=["passage_id"])})

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        second = _ingest(tmp_path, "followed", embedder, after)
    finally:
        done.set()
        watcher.join()
    versions.publish(uri, "followed", "docs")
    assert second.embedded == some + some * PER_DOCUMENT  # one passage of a changed document, all of an added one
    assert second.deleted == some + some * PER_DOCUMENT
    assert seen and all(own == before for own in seen)

    _ingest(tmp_path, "rebuilt", embedder, after)
    followed, rebuilt = _columns(store.pin(ref)), _columns(f"{tmp_path}/db#rebuilt")
    assert followed.num_rows == passages
    assert followed.drop_columns(["vector"]) == rebuilt.drop_columns(["vector"])
    vectors = [np.stack(table.column("vector").to_numpy(zero_copy_only=False)) for table in (followed, rebuilt)]
    np.testing.assert_allclose(*vectors, atol=1e-4)  # batches are padded to other lengths
