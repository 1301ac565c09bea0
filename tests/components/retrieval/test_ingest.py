"""A folder through a real Ray Data stream into a real LanceDB, again and again as the folder changes."""

from pathlib import Path

import numpy as np
import pytest

from components.config import UserError
from components.data import store, versions
from components.data.sources import list_parts
from components.data.sources.folder import Folder
from components.data.sources.jsonl import Jsonl
from components.retrieval import ingest as ingestion
from components.retrieval.chunkers.tokens import Tokens
from components.retrieval.embed import EmbedConfig, Embedder

PARAGRAPHS = [
    "The lighthouse keeper climbs two hundred steps every evening to light the lamp.",
    "Sourdough bread needs flour, water, salt and a starter that has been fed.",
    "A glacier is a river of ice that flows a few metres in a year.",
]
NEWS = "Something new stands at the top of the page now, and it is as long as the others."


@pytest.fixture
def ingest(tmp_path: Path, minilm: Path, ray_cluster: None):
    """A function that brings the table up to date with a folder of files, given as name → text."""
    (tmp_path / "docs").mkdir()

    def run(files: dict[str, str | bytes], *, corpus: str = "docs", embedder: str = "minilm") -> ingestion.Ingested:
        for old in (tmp_path / "docs").iterdir():
            old.unlink()
        for name, content in files.items():
            (tmp_path / "docs" / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        config = Folder(name="folder", path=str(tmp_path / "docs"))
        described = ingestion.Corpus(corpus, "folder", embedder, str(minilm), Tokens(max_tokens=30, overlap=0))
        embed = EmbedConfig(dtype="float32", workers=1)
        done = ingestion.ingest(str(tmp_path / "db"), "passages", list_parts(config), described, embed)
        run.before = store.pin(run.ref)
        versions.publish(str(tmp_path / "db"), "passages", corpus)
        return done

    run.ref = f"{tmp_path}/db#passages"
    return run


def _rows(ref: str) -> dict[str, dict]:
    return {row["text"]: row for row in store.read(ref)}


def test_a_corpus_is_followed_as_it_changes(ingest, minilm: Path) -> None:
    text = "\n\n".join(PARAGRAPHS)
    first = ingest({"a.txt": text, "b.md": "# Bees\n\nBees dance.", "bad.txt": b"\xff\xfe\xfa"})
    assert (first.embedded, first.deleted) == (4, 0)
    assert [failure["doc_id"] for failure in first.failures] == ["bad.txt"]
    rows = _rows(ingest.ref)
    for paragraph in PARAGRAPHS:
        row = rows[paragraph]
        assert text[row["start"] : row["end"]] == paragraph
        assert (row["doc_id"], row["title"], row["source"], row["corpus"]) == ("a.txt", "a", "a.txt", "docs")
    inputs = [f"a\n{PARAGRAPHS[1]}", "# Bees\n\nBees dance."]  # the title goes before a text that lacks it
    expected = Embedder(minilm, "float32").documents([inputs[0], f"Bees\n{inputs[1]}"])
    for name, vector in zip((PARAGRAPHS[1], "# Bees\n\nBees dance."), expected, strict=True):
        np.testing.assert_allclose(rows[name]["vector"], vector, atol=1e-4)

    version = store.pin(ingest.ref)
    again = ingest({"a.txt": text, "b.md": "# Bees\n\nBees dance."})
    assert (again.embedded, again.deleted) == (0, 0)
    assert store.pin(ingest.ref) == version
    assert (rows["# Bees\n\nBees dance."]["section"], rows[PARAGRAPHS[0]]["section"]) == ("Bees", None)

    moved = "\n\n".join([NEWS, *PARAGRAPHS[1:]])
    changed = ingest({"a.txt": moved, "b.md": b"\xff\xfe\xfa"})  # b.md cannot be read this time: it stays
    assert (changed.embedded, changed.deleted) == (1, 1)
    after = _rows(ingest.ref)
    assert set(after) == {NEWS, *PARAGRAPHS[1:], "# Bees\n\nBees dance."}
    row = after[PARAGRAPHS[2]]
    assert moved[row["start"] : row["end"]] == PARAGRAPHS[2] and row["start"] != rows[PARAGRAPHS[2]]["start"]
    assert row["vector"] == rows[PARAGRAPHS[2]]["vector"]
    assert store.count(version) == 4  # what an earlier run pinned is as it was
    assert ingest.before == version != store.pin(ingest.ref)  # nobody saw half of the change


def test_two_corpora_share_a_table_and_have_one_embedder(ingest) -> None:
    ingest({"a.txt": PARAGRAPHS[0]}, corpus="one")
    second = ingest({"a.txt": PARAGRAPHS[0], "b.txt": PARAGRAPHS[1]}, corpus="two")
    assert (second.embedded, second.deleted, store.count(ingest.ref)) == (2, 0, 3)
    before = store.pin(ingest.ref)
    with pytest.raises(UserError, match="the corpus one in the table passages was embedded by another model"):
        ingest({"a.txt": PARAGRAPHS[0], "b.txt": PARAGRAPHS[1]}, corpus="two", embedder="another")
    assert store.pin(ingest.ref) == before and store.count(ingest.ref, "embedder = 'another'") == 0


def test_another_embedder_makes_new_vectors_of_the_whole_corpus(ingest) -> None:
    files: dict[str, str | bytes] = {"a.txt": PARAGRAPHS[0], "b.txt": PARAGRAPHS[1]}
    ingest(files)
    before = store.pin(ingest.ref)
    with pytest.raises(UserError, match=r"1 passages have vectors of another embedder, .*\(b.txt\)"):
        ingest(files | {"b.txt": b"\xff"}, embedder="another")
    assert store.pin(ingest.ref) == before  # readers have nothing of it
    done = ingest(files, embedder="another")
    assert (done.embedded, done.deleted) == (1, 0)  # the other one is what the refused run had made
    assert store.count(ingest.ref) == store.count(ingest.ref, "embedder = 'another'") == 2


def test_repeated_texts_are_kept_apart(ingest) -> None:
    done = ingest({"a.txt": "\n\n".join([NEWS] * 3), "b.txt": NEWS})
    assert done.embedded == store.count(ingest.ref) == 4
    assert len({row["passage_id"] for row in store.read(ingest.ref)}) == 4


def test_a_corpus_of_which_nothing_can_be_read_is_refused(ingest) -> None:
    with pytest.raises(UserError, match="nothing of the corpus can be read"):
        ingest({"a.txt": b"\xff", "b.pdf": b"not a pdf"})
    assert not store.exists(ingest.ref)


def test_passages_longer_than_the_embedder_reads_are_refused(minilm: Path) -> None:
    ingestion.check(minilm, Tokens(max_tokens=254))
    with pytest.raises(UserError, match="is 255, but the embedder reads 254"):
        ingestion.check(minilm, Tokens(max_tokens=255))


def test_the_estimate_counts_what_is_there(tmp_path: Path) -> None:
    """8,000 bytes are about 2,000 tokens."""
    (tmp_path / "a.txt").write_text("x" * 8000)
    estimate = ingestion.estimate(list_parts(Folder(name="folder", path=str(tmp_path))))
    assert (estimate["parts"], estimate["bytes"], estimate["tokens, about"]) == (1, 8000, 2000)


def test_what_its_owner_emptied_is_gone(ingest) -> None:
    ingest({"a.txt": PARAGRAPHS[0], "b.txt": PARAGRAPHS[1]})
    done = ingest({"a.txt": " ", "b.txt": PARAGRAPHS[1]})
    assert done.deleted == 1 and [failure["doc_id"] for failure in done.failures] == ["a.txt"]
    assert set(_rows(ingest.ref)) == {PARAGRAPHS[1]}


def test_rows_that_changed_while_they_were_read_are_told_in_a_sentence(
    tmp_path: Path, minilm: Path, ray_cluster: None
) -> None:
    """It is a worker that meets them, and Ray would show its traceback."""
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "The lighthouse keeper climbs the steps."}\n')
    parts = list_parts(Jsonl(name="jsonl", path=str(path)))
    path.write_text('{"words": "The lighthouse keeper climbs the step"}\n')
    corpus = ingestion.Corpus("docs", "jsonl", "minilm", str(minilm), Tokens(max_tokens=30, overlap=0))
    with pytest.raises(UserError) as told:
        ingestion.ingest(str(tmp_path / "db"), "passages", parts, corpus, EmbedConfig(dtype="float32", workers=1))
    said = str(told.value)
    assert "no text under the key 'text'" in said and said.endswith("was the file changed since it was checked?")
