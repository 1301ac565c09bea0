"""Text and markdown: decoded to the letter, long files piece by piece."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from components.data.readers import Parsed, Unreadable

PIECE_CHARACTERS = 1 << 18
_BLOCK_BYTES = 1 << 20
_BOMS = [  # the longer first: that of UTF-32 begins like that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
]
_BREAKS = ("\n\n", "\n", " ")


def read_text(data: bytes, encoding: str | None = None) -> Parsed:
    """Return a text file's text. Raises as ``decode``."""
    return Parsed(decode(data, encoding))


def read_markdown(data: bytes, encoding: str | None = None) -> Parsed:
    """Return a markdown file's text, titled by its first heading of the first level. Raises as ``decode``."""
    text = decode(data, encoding)
    return Parsed(text, title_of(text), form="markdown")


def decode(data: bytes, encoding: str | None = None) -> str:
    """Return bytes as text, without a byte order mark: what that says, else UTF-8, else ``encoding``.

    Raises:
        Unreadable: it is none of these, or holds zero bytes, which no text does.
    """
    reason = ""
    for name in _candidates(data[:4], encoding):
        try:
            return _checked(data.decode(name))
        except UnicodeDecodeError as error:
            reason = reason or _not_text(name, error.start)
    raise Unreadable(reason)


def pieces(path: Path, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield a text file's text as (characters before, piece), each of at most a quarter of a million characters.

    A piece ends at a paragraph where it can, else at a line, else at a space. The whole file is decoded once before
    the first piece, so that none is yielded of a file that turns out to be no text. Raises as ``decode``.
    """
    name = _encoding_of(path, encoding)
    place, rest = 0, ""
    for block in _blocks(path, name):
        rest += block
        while len(rest) > PIECE_CHARACTERS:
            end = _cut(rest)
            yield place, rest[:end]
            place, rest = place + end, rest[end:]
    if rest:
        yield place, rest


def title_of(markdown: str) -> str:
    """Return the first heading of the first level, "" where there is none."""
    for start in _line_starts(markdown):
        if markdown.startswith("# ", start):
            end = markdown.find("\n", start)
            return markdown[start + 2 : end if end >= 0 else None].strip()
    return ""


def without_surrogates(text: str) -> str:
    """Return text in which halves of surrogate pairs, which are no characters, are replaced by U+FFFD."""
    return text.encode("utf-8", "replace").decode() if any("\ud800" <= c <= "\udfff" for c in text) else text


def _candidates(start: bytes, encoding: str | None) -> list[str]:
    marked = next((name for mark, name in _BOMS if start.startswith(mark)), None)
    if marked:
        return [marked]
    return ["utf-8-sig", *([encoding] if encoding else [])]


def _encoding_of(path: Path, encoding: str | None) -> str:
    reason = ""
    with path.open("rb") as stream:
        start = stream.read(4)
    for name in _candidates(start, encoding):
        place = 0
        try:
            for block in _blocks(path, name):
                place += len(block)
            return name
        except UnicodeDecodeError:
            reason = reason or f"it is not {name.removesuffix('-sig')} text after {place} characters: {_FIX}"
    raise Unreadable(reason)


def _blocks(path: Path, name: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(name)()
    with path.open("rb") as stream:
        while data := stream.read(_BLOCK_BYTES):
            yield _checked(decoder.decode(data))
    yield decoder.decode(b"", final=True)


def _checked(text: str) -> str:
    if "\0" in text:
        raise Unreadable("it is not text: it holds zero bytes")
    return text


def _cut(text: str) -> int:
    for mark in _BREAKS:
        end = text.rfind(mark, PIECE_CHARACTERS // 2, PIECE_CHARACTERS)
        if end >= 0:
            return end + len(mark)
    return PIECE_CHARACTERS


def _line_starts(text: str) -> Iterator[int]:
    start = 0
    while start >= 0:
        yield start
        start = text.find("\n", start) + 1 or -1


_FIX = "re-encode it, or name its encoding in source.encoding"


def _not_text(name: str, place: int) -> str:
    return f"it is not {name.removesuffix('-sig')} text (byte {place}): {_FIX}"
