"""Parts of a corpus become rows: what every row says, and hostile files, without a cluster."""

import tracemalloc
from pathlib import Path

import pytest

from components.data.sources import list_parts
from components.data.sources.folder import Folder
from components.retrieval.chunkers import ChunkerConfig
from components.retrieval.chunkers.markdown import Markdown
from components.retrieval.chunkers.semantic import Semantic
from components.retrieval.chunkers.tokens import Tokens
from components.retrieval.passages import Chunking, Corpus, _tables
from tests.components.data.test_readers import docx_bytes, pdf_bytes
from tests.components.retrieval.tiny_embedder import make_tiny_embedder


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_embedder(tmp_path_factory.mktemp("embedder"), ["tea", "word", "water", "the", "is"])


def _rows(folder: Path, embedder: Path, chunker: ChunkerConfig | None = None) -> dict[str, list[dict]]:
    """The rows of each document."""
    corpus = Corpus("docs", "folder", "tiny", str(embedder), chunker or Tokens(max_tokens=30, overlap=5))
    chunking = Chunking(corpus)
    found: dict[str, list[dict]] = {}
    for part in list_parts(Folder(name="folder", path=str(folder))):
        for rows in _tables(part, chunking):
            found.setdefault(part["doc_id"], []).extend(rows)
    return found


def test_rows_say_section_page_and_date(tmp_path: Path, embedder: Path) -> None:
    (tmp_path / "a.md").write_text("intro\n\n# Tea\n\n" + "word " * 25 + "\n\n## Water\n\nIt is eighty degrees.\n")
    (tmp_path / "b.docx").write_bytes(docx_bytes())
    (tmp_path / "c.pdf").write_bytes(pdf_bytes([f"page {n} " + "word " * 12 for n in range(4)]))
    (tmp_path / "d.txt").write_text("# no markdown here\n\ntext")
    found = _rows(tmp_path, embedder, Markdown(name="markdown", max_tokens=30, overlap=0))
    assert [row["section"] for row in found["a.md"]] == [None, "Tea", "Tea > Water"]
    assert found["b.docx"][0]["section"] == "Brewing tea" and found["b.docx"][0]["date"] == "2026-03-01T09:30:00Z"
    pages = [row["page"] for row in found["c.pdf"]]
    assert pages == sorted(pages) and set(pages) <= {"1", "2", "3", "4"} and len(set(pages)) > 1
    for row in found["c.pdf"]:
        assert f"page {int(row['page']) - 1}" in row["text"] or not row["text"].startswith("page")
    assert {row["section"] for row in found["d.txt"]} == {None}


def test_a_title_that_is_too_long_to_repeat_is_cut(tmp_path: Path, embedder: Path) -> None:
    (tmp_path / "a.md").write_text("# " + "tea " * 2_000 + "\n\ntext")
    found = _rows(tmp_path, embedder)["a.md"]
    assert {len(row["title"]) for row in found} == {300}
    assert sum(len(row["section"] or "") for row in found) <= 100 * len(found)


def test_every_file_has_an_outcome_and_nothing_is_lost(tmp_path: Path, embedder: Path) -> None:
    good = {"a.txt": "The tea is hot. " * 40, "same.txt": "The tea is hot. " * 40, "c.md": "# Tea\n\nHot."}
    for name, text in good.items():
        (tmp_path / name).write_text(text)
    bad: dict[str, tuple[bytes, str]] = {
        "broken.pdf": (b"%PDF-1.4 and then nothing", "no PDF that can be read"),
        "locked.pdf": (pdf_bytes(["secret"], ("user", "owner")), "encrypted"),
        "mixed.txt": ("Möwe ".encode() + "Möwe".encode("latin-1"), "not utf-8 text (byte 7)"),
        "bom.txt": (b"\xef\xbb\xbf", "no text"),
        "zero.txt": (b"a\0b", "zero bytes"),
        "empty.md": (b"", "no text"),
        "old.docx": (b"\xd0\xcf\x11\xe0" * 200, "no docx file"),
        "table.xlsx": (b"x", "kind '.xlsx'"),
    }
    for name, (content, _) in bad.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "loop").symlink_to(tmp_path)
    found = _rows(tmp_path, embedder)
    assert set(found) == {*good, *bad, "loop"}
    for name, (_, reason) in bad.items():
        (row,) = found[name]
        assert row["state"] == ("gone" if row["error"] == "it holds no text" else "failed"), row
        assert reason in row["error"], row
    for name, text in good.items():
        covered = "".join(text[row["start"] : row["end"]] for row in found[name])
        assert all(row["text"] == text[row["start"] : row["end"]] for row in found[name])
        assert len(covered) >= len("".join(text.split()))
    ids = [row["passage_id"] for name in good for row in found[name]]
    assert len(set(ids)) == len(ids)  # the same text in two files, and again and again in one, stays apart


def test_a_long_document_comes_in_pieces_whose_places_are_the_files(tmp_path: Path, embedder: Path) -> None:
    text = "same line again\n" * 20_000 + "the end"
    (tmp_path / "long.txt").write_text(text)
    rows = _rows(tmp_path, embedder, Tokens(max_tokens=100, overlap=0))["long.txt"]
    assert all(row["text"] == text[row["start"] : row["end"]] for row in rows)
    assert sum(len(row["text"].split()) for row in rows) == len(text.split())
    assert len({row["passage_id"] for row in rows}) == len(rows)


def test_the_semantic_chunker_is_handed_the_corpus_embedder(tmp_path: Path, embedder: Path) -> None:
    (tmp_path / "a.txt").write_text("The tea is hot. The tea is good. The water is cold. Is it? The end is near.")
    rows = _rows(tmp_path, embedder, Semantic(name="semantic", max_tokens=60, overlap=0))["a.txt"]
    assert len(rows) > 1 and "".join("".join(row["text"].split()) for row in rows).endswith("Theendisnear.")


@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_a_hundred_megabytes_on_one_line_in_bounded_memory(tmp_path: Path, embedder: Path) -> None:
    with (tmp_path / "line.txt").open("wb") as stream:
        for _ in range(100):
            stream.write(b"word " * 200_000)
    corpus = Corpus("docs", "folder", "tiny", str(embedder), Tokens(max_tokens=100, overlap=0))
    chunking = Chunking(corpus)
    (part,) = list_parts(Folder(name="folder", path=str(tmp_path)))
    words = 0
    tracemalloc.start()
    for rows in _tables(part, chunking):
        words += sum(len(row["text"].split()) for row in rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert words == 20_000_000 and peak < 200e6
