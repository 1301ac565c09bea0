"""PDF files that have a text layer, page by page."""

import io
from typing import Any

from components.data.readers import Parsed, Unreadable, iso_date
from components.data.readers.text import without_surrogates


def read_pdf(data: bytes, encoding: str | None = None) -> Parsed:
    """Return the text of all pages, an empty line between them; ``encoding`` is not used, as PDF has its own.

    A file that opens without a password is read whatever its owner forbids printing it.

    Raises:
        Unreadable: it is broken, needs a password, or has no text layer.
    """
    from pypdf import PdfReader
    from pypdf.errors import PyPdfError

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("it is encrypted: save it without a password")
        pages = [without_surrogates(page.extract_text()).replace("\0", "") for page in reader.pages]
        labels, facts = list(reader.page_labels), reader.metadata
    except (PyPdfError, RecursionError, KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise Unreadable(f"it is no PDF that can be read ({type(error).__name__}: {error})") from error
    if not any(page.strip() for page in pages):
        raise Unreadable("it has no text layer, as scans have none: run OCR on it first")
    starts: list[dict[str, Any]] = []
    place = 0
    for label, page in zip(labels, pages, strict=True):
        starts.append({"start": place, "label": label})
        place += len(page) + 2
    return Parsed("\n\n".join(pages), *_facts(facts), pages=starts, facts={"pages": len(pages)})


def _facts(facts: Any) -> tuple[str, str | None]:
    """Return title and date; what a broken writer left in them is no reason to lose the text."""
    if facts is None:
        return "", None
    try:
        date = facts.modification_date or facts.creation_date
    except ValueError:
        date = None
    return " ".join(without_surrogates(str(facts.title or "")).split()), iso_date(date)
