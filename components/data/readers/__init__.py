"""Bytes of a file to its text and what the file says about it: one module for each kind of file."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import PurePath
from typing import Any

MAX_FILE_MB = 64  # of a file that has to be in memory to be parsed
MEDIA_TYPES = {
    "text/plain": ".txt",
    "text/markdown": ".md",
    "text/x-markdown": ".md",
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "application/pdf": ".pdf",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": ".docx",
}


class Unreadable(Exception):
    """A part that cannot be read; the message is the reason. The run goes on without it."""


class Gone(Unreadable):
    """A part that its owner emptied or took down: what was known of it does not hold any more."""


@dataclass(frozen=True)
class Parsed:
    """What a reader found in a file."""

    text: str
    title: str = ""
    date: str | None = None  # as iso_date writes it; null where the file does not tell
    form: str = "text"  # text | markdown: whether its headings can be told
    pages: list[dict[str, Any]] = field(default_factory=list)  # {"start": character, "label": str}, in order
    facts: dict[str, Any] = field(default_factory=dict)


def suffixes() -> tuple[str, ...]:
    """Return the kinds of files that have a reader, as the names of such files end."""
    return tuple(_readers())


def suffix_of(name: str) -> str:
    """Return what tells a file's kind: the end of its name, in small letters, with its dot."""
    return PurePath(name).suffix.lower()


def parse(data: bytes, suffix: str, encoding: str | None = None) -> Parsed:
    """Return the text of a file.

    Args:
        suffix: its kind, one of ``suffixes()``.
        encoding: of text that is no UTF-8 and has no byte order mark; none refuses it.

    Raises:
        Unreadable: it is none of that kind, is encrypted, holds no text, or is built to fill the memory.
    """
    if suffix not in _readers():
        raise Unreadable(f"files of kind '{suffix}' are not read: convert it to {', '.join(_readers())}")
    parsed = _readers()[suffix](data, encoding)
    if not parsed.text.strip():
        raise Gone("it holds no text")
    return parsed


def too_large(size: int, limit_mb: int = MAX_FILE_MB) -> str | None:
    """Return why a file of so many bytes is not read, None where it is small enough."""
    if size <= limit_mb * 2**20:
        return None
    return f"it has {size / 2**20:.0f} MiB, and at most {limit_mb} are read into memory: split it, or raise the limit"


def iso_date(value: str | datetime | None) -> str | None:
    """Return a date as text that sorts by time, in UTC: 2026-03-01, or 2026-03-01T09:30:00Z; None if it is none.

    Takes ISO 8601 and the form of HTTP headers; a time without zone is taken for UTC.
    """
    if isinstance(value, str):
        value = value.strip()
        try:
            if len(value) == 10:
                return datetime.fromisoformat(value).date().isoformat()
            value = datetime.fromisoformat(value)
        except ValueError:
            try:
                value = parsedate_to_datetime(str(value))
            except ValueError:
                return None
    if value is None:
        return None
    value = value.replace(tzinfo=UTC) if value.tzinfo is None else value
    try:
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except OverflowError:  # year 1 or 9999, as broken writers leave it
        return None


def _readers() -> dict[str, Callable[[bytes, str | None], Parsed]]:
    from components.data.readers.docx import read_docx
    from components.data.readers.html import read_html
    from components.data.readers.pdf import read_pdf
    from components.data.readers.text import read_markdown, read_text

    return {
        ".txt": read_text,
        ".md": read_markdown,
        ".html": read_html,
        ".htm": read_html,
        ".pdf": read_pdf,
        ".docx": read_docx,
    }
