"""Word files (docx): headings, paragraphs, lists and tables as markdown."""

import io
import zipfile
from collections.abc import Iterator
from typing import Any

from components.data.readers import Parsed, Unreadable, iso_date
from components.data.readers.text import title_of

_MAX_XML_MB = 64  # of one part inside; its tree takes several times as much memory
_MAX_UNPACKED_MB = 512
_MAX_DEPTH = 20  # of tables within tables


def read_docx(data: bytes, encoding: str | None = None) -> Parsed:
    """Return a document's text, headings as lines of ``#``; ``encoding`` is not used, as the format has its own.

    Raises:
        Unreadable: it is no docx file, needs a password, or would unpack to more than is reasonable.
    """
    from docx import Document

    _refuse_bombs(data)
    try:
        document = Document(io.BytesIO(data))
        text = "\n\n".join(_blocks(document, 0))
    except Unreadable:
        raise
    except Exception as error:  # its parser passes on what lxml, zipfile and its own lookups raise
        raise Unreadable(f"it is no docx file that can be read ({type(error).__name__}: {error})") from error
    facts = document.core_properties
    try:
        date = iso_date(facts.modified or facts.created)
    except ValueError:
        date = None
    return Parsed(text, " ".join((facts.title or "").split()) or title_of(text), date, form="markdown")


def _refuse_bombs(data: bytes) -> None:
    try:
        entries = zipfile.ZipFile(io.BytesIO(data)).infolist()
    except zipfile.BadZipFile as error:
        raise Unreadable(
            "it is no docx file: it is broken, an old doc file, or needs a password; save it as docx without one"
        ) from error
    largest = max((entry.file_size for entry in entries if entry.filename.endswith((".xml", ".rels"))), default=0)
    total = sum(entry.file_size for entry in entries)  # zipfile reads no more of an entry than this
    for size, limit, what in ((largest, _MAX_XML_MB, "a part of it"), (total, _MAX_UNPACKED_MB, "it")):
        if size > limit * 2**20:
            raise Unreadable(f"{what} unpacks to {size / 2**20:.0f} MiB, more than {limit}: it looks like a zip bomb")


def _blocks(holder: Any, depth: int) -> Iterator[str]:
    from docx.table import Table

    for block in holder.iter_inner_content():
        text = _table(block, depth) if isinstance(block, Table) else _paragraph(block)
        if text.strip():
            yield text


def _paragraph(paragraph: Any) -> str:
    text = paragraph.text.strip()
    style = (paragraph.style.name if paragraph.style is not None else None) or ""
    if not text:
        return ""
    if style == "Title":
        return f"# {' '.join(text.split())}"
    if style.startswith("Heading ") and style.removeprefix("Heading ").isdigit():
        return f"{'#' * min(int(style.removeprefix('Heading ')), 6)} {' '.join(text.split())}"
    return f"- {text}" if style.startswith("List ") else text


def _table(table: Any, depth: int) -> str:
    if depth > _MAX_DEPTH:
        raise Unreadable(f"it has tables within tables, more than {_MAX_DEPTH} deep")
    rows = []
    for row in table.rows:
        cells = [" ".join(" ".join(_blocks(cell, depth + 1)).split()) for cell in _distinct(row.cells)]
        if any(cells):
            rows.append("| " + " | ".join(cells) + " |")
    if len(rows) > 1:
        rows.insert(1, "|" + " --- |" * max(rows[0].count(" | ") + 1, 1))
    return "\n".join(rows)


def _distinct(cells: Any) -> list[Any]:
    """Return a row's cells, those that were merged once."""
    return [cell for number, cell in enumerate(cells) if not number or cell._tc is not cells[number - 1]._tc]
