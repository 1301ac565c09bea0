"""Folders of txt, md, html and pdf files, good and broken."""

from pathlib import Path

import pytest

from components.config import UserError
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
    with pytest.raises(Exception, match=r"\w"):  # pypdf's own error; the stream reports any
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
    (tmp_path / "a.docx").write_text("x")
    with pytest.raises(UserError, match=r"other kinds \(.docx\): we read .txt, .md"):
        _parts(tmp_path)
    with pytest.raises(UserError, match="is a file"):
        _parts(tmp_path / "a.docx")
