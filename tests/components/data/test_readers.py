"""Readers on good and hostile bytes: docx, pdf, html, text in every encoding, dates."""

import io
import tracemalloc
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.data.readers import Unreadable, iso_date, parse, suffix_of, too_large
from components.data.readers.text import PIECE_CHARACTERS, decode, pieces


def docx_bytes(title: str = "Tea", nested: int = 1) -> bytes:
    """A document with headings, a list, a table with a merged row, and a table within a table."""
    from docx import Document

    document = Document()
    document.core_properties.title = title
    document.core_properties.modified = datetime(2026, 3, 1, 9, 30, tzinfo=UTC)
    document.add_heading("Brewing tea", 0)
    document.add_paragraph("Tea comes from a plant.")
    document.add_heading("Water", 1)
    document.add_paragraph("eighty degrees", style="List Bullet")
    table = document.add_table(2, 2)
    table.cell(0, 0).text, table.cell(0, 1).text = "kind", "minutes"
    table.cell(1, 0).merge(table.cell(1, 1)).text = "green: three"
    cell = document.add_table(1, 1).cell(0, 0)
    for _ in range(nested):
        cell = cell.add_table(1, 1).cell(0, 0)
    cell.text = "innermost"
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def with_entry(data: bytes, name: str, content: bytes) -> bytes:
    """A copy of a zip file with one entry replaced or added."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            if entry.filename != name:
                new.writestr(entry, old.read(entry))
        new.writestr(name, content)
    return stream.getvalue()


def announcing(data: bytes, name: str, size: int) -> bytes:
    """A copy of a zip file whose directory says that the entry unpacks to ``size`` bytes."""
    place = data.index(name.encode(), data.index(b"PK\x01\x02")) - 46
    while data[place : place + 4] != b"PK\x01\x02":
        place = data.index(name.encode(), place + 47) - 46
    return data[: place + 24] + size.to_bytes(4, "little") + data[place + 28 :]


def pdf_bytes(pages: list[str], password: tuple[str, str] | None = None) -> bytes:
    """A PDF by reportlab; encrypted by (user, owner) passwords if given."""
    from pypdf import PdfReader, PdfWriter
    from reportlab.pdfgen.canvas import Canvas

    stream = io.BytesIO()
    canvas = Canvas(stream)
    canvas.setTitle("On tea")
    for text in pages:
        canvas.drawString(72, 700, text)
        canvas.showPage()
    canvas.save()
    if password is None:
        return stream.getvalue()
    writer = PdfWriter(PdfReader(stream))
    writer.encrypt(*password, algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_docx_becomes_markdown_in_its_order() -> None:
    parsed = parse(docx_bytes(), ".docx")
    assert parsed.text == (
        "# Brewing tea\n\nTea comes from a plant.\n\n# Water\n\n- eighty degrees\n\n"
        "| kind | minutes |\n| --- | --- |\n| green: three |\n\n| | innermost | |"
    )
    assert (parsed.title, parsed.date, parsed.form) == ("Tea", "2026-03-01T09:30:00Z", "markdown")
    assert parse(docx_bytes(title=""), ".docx").title == "Brewing tea"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: b"", "no docx file"),
        (lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + b"\0" * 600, "needs a password"),  # as Word encrypts
        (lambda: docx_bytes()[:-400], "no docx file"),
        (lambda: with_entry(docx_bytes(), "word/document.xml", b"<w:document"), "no docx file that can be read"),
        (lambda: with_entry(docx_bytes(), "word/document.xml", b" " * (70 << 20)), "unpacks to 70 MiB, more than 64"),
        (
            lambda: announcing(with_entry(docx_bytes(), "word/media/a.bin", b"x"), "word/media/a.bin", 600 << 20),
            "unpacks to 6.. MiB, more than 512",
        ),
        (lambda: docx_bytes(nested=25), "tables within tables"),
    ],
    ids=["empty", "encrypted", "cut", "no xml", "bomb", "large bomb", "nested"],
)
def test_hostile_docx_is_refused_in_bounded_memory(make: Callable[[], bytes], says: str) -> None:
    data = make()
    tracemalloc.start()
    with pytest.raises(Unreadable, match=says):
        parse(data, ".docx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


def test_entities_of_docx_are_not_expanded() -> None:
    bomb = b'<?xml version="1.0"?><!DOCTYPE b [<!ENTITY a "' + b"x" * 1000 + b'"><!ENTITY c "'
    bomb += b"&a;" * 1000 + b'">]><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
    bomb += b"<w:body><w:p><w:r><w:t>&c;</w:t></w:r></w:p></w:body></w:document>"
    with pytest.raises(Unreadable):
        parse(with_entry(docx_bytes(), "word/document.xml", bomb), ".docx")


def test_pdf_tells_where_pages_begin() -> None:
    parsed = parse(pdf_bytes(["The first page speaks.", "So does the second."]), ".pdf")
    second = parsed.pages[1]
    assert parsed.text[second["start"] :].startswith("So does") and second["label"] == "2"
    assert (parsed.title, parsed.facts) == ("On tea", {"pages": 2})
    assert parsed.date is not None and parsed.date.startswith("20")


def test_pdf_that_only_its_owner_protects_is_read_and_one_with_a_password_is_not() -> None:
    assert "speaks" in parse(pdf_bytes(["It speaks."], ("", "owner")), ".pdf").text
    with pytest.raises(Unreadable, match="encrypted"):
        parse(pdf_bytes(["It speaks."], ("user", "owner")), ".pdf")


@pytest.mark.parametrize("cut", [0, 9, 200, 700])
def test_broken_pdf_is_refused_with_the_reason(cut: int) -> None:
    data = pdf_bytes(["It speaks."])
    with pytest.raises(Unreadable, match=r"no PDF that can be read|no text layer"):
        parse(data[:cut], ".pdf")
    with pytest.raises(Unreadable):
        parse(b"%PDF-1.7\n" + bytes(range(256)) * 20, ".pdf")


def test_html_has_title_date_and_headings() -> None:
    page = (
        "<html><head><title>x</title>"
        "<meta property='article:published_time' content='2026-03-01T10:30:00+01:00'></head>"
        "<body><main><h1>Tea time</h1><p>Green tea is best brewed at eighty degrees for about three minutes.</p>"
        "<h2>Water</h2><p>It must not boil, as boiling water burns the leaves of green tea.</p></main></body></html>"
    )
    parsed = parse(page.encode("utf-16"), ".html")
    assert (parsed.date, parsed.form) == ("2026-03-01T09:30:00Z", "markdown")
    assert "## Water" in parsed.text
    assert parse(page.replace("é", "").encode("latin-1"), ".html", "latin-1").text == parsed.text


@pytest.mark.parametrize(
    ("meta", "encoding"),
    [
        ('<meta charset="windows-1251">', "cp1251"),
        ("<META http-equiv='Content-Type' content='text/html; charset=koi8-r'>", "koi8-r"),
        ("<meta charset=utf-8>", "utf-8"),
        ("<meta charset=koi8-r>", "utf-8"),  # the bytes say otherwise
        ("<meta charset=undefined>", "utf-8"),
        ('<meta name="description" content="charset=latin-1"><meta charset="cp1251">', "cp1251"),
    ],
)
def test_html_that_names_its_encoding_is_read_in_it(meta: str, encoding: str) -> None:
    page = f"<html><head>{meta}<title>x</title></head><body><p>Зелёный чай заваривают не кипятком.</p></body></html>"
    assert "Зелёный чай заваривают не кипятком." in parse(page.encode(encoding), ".html").text


def test_html_that_says_latin_1_means_windows_1252_and_a_wrong_name_is_no_help() -> None:
    page = "<html><head><meta charset=iso-8859-1></head><body><p>It costs 5 € – “cheap”.</p></body></html>"
    assert "5 € – “cheap”" in parse(page.encode("cp1252"), ".html").text
    for name in ("klingon", "rot13", "base64", "undefined", "punycode", "utf-16", "ä"):
        with pytest.raises(Unreadable, match="not utf-8 text"):
            parse(page.replace("iso-8859-1", name).encode("cp1252"), ".html")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-le-bom", "utf-16-be-bom"])
def test_text_is_read_in_every_encoding_that_says_what_it_is(encoding: str) -> None:
    text = "Möwe 漢字 😀\r\n"
    data = {
        "utf-16-le-bom": b"\xff\xfe" + text.encode("utf-16-le"),
        "utf-16-be-bom": b"\xfe\xff" + text.encode("utf-16-be"),
    }.get(encoding) or text.encode(encoding)
    assert decode(data) == text


def test_other_text_is_refused_or_read_as_the_user_says() -> None:
    data = "Möwe".encode("cp1252")
    with pytest.raises(Unreadable, match=r"not utf-8 text \(byte 1\): re-encode it, or name its encoding"):
        decode(data)
    assert decode(data, "cp1252") == "Möwe"
    assert decode("Möwe".encode(), "cp1252") == "Möwe"  # one that is UTF-8 is not spoiled
    with pytest.raises(Unreadable, match="zero bytes"):
        decode(b"a\0b")
    with pytest.raises(Unreadable, match="zero bytes"):
        decode("no mark".encode("utf-16-le"))
    with pytest.raises(Unreadable, match="utf-16"):
        decode(b"\xff\xfe\x00")
    with pytest.raises(Unreadable, match="no text"):
        parse(b"\xef\xbb\xbf \n", ".txt")


def test_a_long_file_comes_in_pieces_that_join_to_it(tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    text = "naïve words.\r\n\r\n" * (PIECE_CHARACTERS // 8) + "x" * (PIECE_CHARACTERS + 5)
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    found = list(pieces(path))
    assert "".join(piece for _, piece in found) == text
    assert all(text[start : start + len(piece)] == piece for start, piece in found)
    assert max(len(piece) for _, piece in found) <= PIECE_CHARACTERS
    assert found[0][1].endswith("\n")


def test_a_hundred_megabytes_on_one_line_take_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    with path.open("wb") as stream:
        for _ in range(100):
            stream.write(b"word " * 200_000)
    tracemalloc.start()
    size = sum(len(piece) for _, piece in pieces(path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 100_000_000 and peak < 16e6


def test_a_late_wrong_byte_is_found_before_the_first_piece(tmp_path: Path) -> None:
    path = tmp_path / "late.txt"
    path.write_bytes(b"word " * 400_000 + b"\xff")
    with pytest.raises(Unreadable, match="not utf-8 text"):
        next(pieces(path))
    assert next(pieces(path, "latin-1"))[0] == 0


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("2026-03-01", "2026-03-01"),
        ("2026-03-01T10:30:00+01:00", "2026-03-01T09:30:00Z"),
        ("2026-03-01 09:30", "2026-03-01T09:30:00Z"),
        ("Sun, 01 Mar 2026 09:30:00 GMT", "2026-03-01T09:30:00Z"),
        ("last week", None),
        ("2026-13-01", None),
        ("", None),
        (None, None),
    ],
)
def test_dates_sort_by_time(written: str | None, expected: str | None) -> None:
    assert iso_date(written) == expected


def test_kinds_and_sizes() -> None:
    assert (suffix_of("a/b.MD"), suffix_of("Makefile")) == (".md", "")
    assert too_large(64 << 20) is None and "at most 1 are read" in str(too_large(2 << 20, 1))
    with pytest.raises(Unreadable, match=r"kind '\.xlsx' are not read: convert it to \.txt, \.md"):
        parse(b"x", ".xlsx")
