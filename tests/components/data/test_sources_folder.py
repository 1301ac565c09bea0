"""Folders of txt, md, html and pdf files, good and broken."""

import os
import subprocess
from pathlib import Path

import pytest

from components.config import UserError, parse
from components.data.sources import Unreadable, list_parts, read_part
from components.data.sources.folder import Folder

PAGE = """<html><head><title>Tea &amp; time</title><script>var x = 1</script></head><body>
<main><p>Green tea is best brewed at eighty degrees for about three minutes, and never with boiling water.</p></main>
</body></html>"""


def _parts(folder: Path) -> list[dict]:
    return list_parts(Folder(name="folder", path=str(folder)))


def _read(folder: Path, name: str):
    part = next(part for part in _parts(folder) if part["doc_id"] == name)
    return next(read_part("folder", part))


def _pdf(path: Path, pages: list[str]) -> None:
    from reportlab.pdfgen.canvas import Canvas

    canvas = Canvas(str(path))
    for text in pages:
        canvas.drawString(72, 700, text)
        canvas.showPage()
    canvas.save()


def test_text_and_markdown_are_kept_to_the_letter(tmp_path: Path) -> None:
    text = "Zeile eins\r\n\r\nüß 😀\t\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.MD").write_bytes(b"\xef\xbb\xbf# Getting started\n\nRun it.")
    (tmp_path / "c.txt").write_bytes("Möwe".encode("utf-16"))
    assert [part["doc_id"] for part in _parts(tmp_path)] == ["a.txt", "c.txt", "sub/b.MD"]
    plain, marked = _read(tmp_path, "a.txt"), _read(tmp_path, "sub/b.MD")
    assert (plain.text, plain.title, plain.group, plain.source) == (text, "a", "", "a.txt")
    assert (marked.text, marked.title, marked.group) == ("# Getting started\n\nRun it.", "Getting started", "sub")
    assert _read(tmp_path, "c.txt").text == "Möwe"


def test_html_gives_its_text_and_title_without_scripts(tmp_path: Path) -> None:
    (tmp_path / "tea.html").write_text(PAGE)
    page = _read(tmp_path, "tea.html")
    assert "eighty degrees" in page.text and "var x" not in page.text and "<" not in page.text
    assert page.title == "Tea & time"


def test_pdf_gives_the_text_of_all_pages(tmp_path: Path) -> None:
    _pdf(tmp_path / "two.pdf", ["The first page speaks.", "So does the second."])
    document = _read(tmp_path, "two.pdf")
    assert document.text.index("first page") < document.text.index("second")
    assert document.metadata == '{"pages": 2}'


def test_what_cannot_be_parsed_says_why(tmp_path: Path) -> None:
    _pdf(tmp_path / "scan.pdf", [""])
    (tmp_path / "broken.pdf").write_bytes(b"%PDF-1.4 and then nothing")
    (tmp_path / "latin.txt").write_bytes("Möwe".encode("latin-1"))
    (tmp_path / "binary.md").write_bytes(b"a\0b")
    (tmp_path / "blank.txt").write_text(" \n\t")
    (tmp_path / "table.xlsx").write_text("x")
    for name, says in {
        "scan.pdf": "no text layer",
        "latin.txt": "not utf-8 text",
        "binary.md": "zero bytes",
        "blank.txt": "no text",
        "table.xlsx": "kind '.xlsx'",
    }.items():
        with pytest.raises(Unreadable, match=says):
            _read(tmp_path, name)
    with pytest.raises(Unreadable, match="no PDF that can be read"):
        _read(tmp_path, "broken.pdf")


def test_a_folder_that_cannot_be_a_corpus_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        _parts(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no files"):
        _parts(tmp_path)
    (tmp_path / ".hidden.txt").write_text("x")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "readme.txt").write_text("x")
    with pytest.raises(UserError, match="holds no files"):
        _parts(tmp_path)
    (tmp_path / "a.xlsx").write_text("x")
    with pytest.raises(UserError, match=r"other kinds \(.xlsx\): we read .txt, .md"):
        _parts(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        _parts(tmp_path / "a.xlsx")


def test_word_files_are_read(tmp_path: Path) -> None:
    from docx import Document

    document = Document()
    document.add_heading("Tea", 1)
    document.add_paragraph("Eighty degrees.")
    document.save(str(tmp_path / "a.DOCX"))
    found = _read(tmp_path, "a.DOCX")
    assert (found.text, found.title, found.form) == ("# Tea\n\nEighty degrees.", "Tea", "markdown")


def test_links_loops_and_pipes_are_named_and_end(tmp_path: Path) -> None:
    root, other = tmp_path / "root", tmp_path / "other"
    root.mkdir()
    other.mkdir()
    (other / "b.txt").write_text("b")
    (root / "a.txt").write_text("a")
    (root / "file.txt").symlink_to(other / "b.txt")
    (root / "up").symlink_to(root)
    (root / "self.txt").symlink_to(root / "self.txt")
    (root / "gone.txt").symlink_to(root / "nowhere.txt")
    os.mkfifo(root / "pipe.txt")
    said = {}
    for part in _parts(root):
        try:
            said[part["doc_id"]] = next(read_part("folder", part)).text
        except Unreadable as error:
            said[part["doc_id"]] = str(error)
    assert said["a.txt"] == "a" and said["file.txt"] == "b"
    assert "link to a folder" in said["up"] and "leads" in said["self.txt"] and "leads nowhere" in said["gone.txt"]
    assert "a pipe" in said["pipe.txt"]


def test_very_deep_folders_are_walked_and_too_deep_ones_named(tmp_path: Path) -> None:
    """A path may have 4,096 bytes: a file under 1,500 folders is read, of 3,000 the first that is too far is named."""
    (tmp_path / "root").mkdir()
    place = os.open(tmp_path / "root", os.O_RDONLY)
    for depth in range(3000):
        if depth == 1500:
            with open(os.open("deep.txt", os.O_CREAT | os.O_WRONLY, dir_fd=place), "w") as stream:
                stream.write("deep")
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    try:
        parts = _parts(tmp_path / "root")
        (deep,) = [part for part in parts if part["doc_id"].endswith("deep.txt")]
        assert next(read_part("folder", deep)).text == "deep"
        (too_deep,) = [part for part in parts if "error" in part]
        with pytest.raises(Unreadable, match="cannot be read: File name too long"):
            next(read_part("folder", too_deep))
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "root")], check=True)


def test_a_long_text_comes_in_pieces_of_one_document(tmp_path: Path) -> None:
    (tmp_path / "long.md").write_text("# Long\n\n" + "A line of words.\n" * 100_000)
    (part,) = _parts(tmp_path)
    found = list(read_part("folder", part))
    assert len(found) > 2 and {document.doc_id for document in found} == {"long.md"}
    assert {document.title for document in found} == {"Long"}
    text = (tmp_path / "long.md").read_text()
    assert "".join(document.text for document in found) == text
    assert all(text.startswith(document.text, document.offset) for document in found)
    (tmp_path / "long.md").write_text(" " * 3_000_000)
    with pytest.raises(Unreadable, match="no text"):
        list(read_part("folder", part))


def test_a_large_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.pdf").open("wb") as stream:
        stream.truncate(65 << 20)
    with pytest.raises(Unreadable, match="it has 65 MiB, and at most 64 are read"):
        _read(tmp_path, "a.pdf")


def test_the_users_encoding_is_for_what_is_not_utf8(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("Möwe".encode("cp1252"))
    (tmp_path / "b.txt").write_text("Möwe")
    parts = list_parts(Folder(name="folder", path=str(tmp_path), encoding="cp1252"))
    assert {next(read_part("folder", part)).text for part in parts} == {"Möwe"}
    with pytest.raises(UserError, match="no such encoding"):
        parse(Folder, {"name": "folder", "path": "x", "encoding": "klingon"})
    with pytest.raises(UserError, match="no such encoding"):
        parse(Folder, {"name": "folder", "path": "x", "encoding": "hex"})
