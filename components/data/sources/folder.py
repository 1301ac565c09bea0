"""A folder of documents: txt, md, html, pdf and docx files, in subfolders too."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from components.config import Field, InputPath, UserError
from components.data import readers
from components.data.readers.text import PIECE_CHARACTERS, pieces, title_of
from components.data.records import Document
from components.data.sources import SourceConfig, Unreadable
from components.data.sources._encodings import Encoding
from components.data.sources._walk import walk

_STREAMED = {".txt": "text", ".md": "markdown"}  # read piece by piece, of any size


class Folder(SourceConfig):
    """A folder of documents."""

    name: Literal["folder"]
    path: InputPath = Field(description="the folder; hidden files and folders in it are left out")
    encoding: Encoding = Field(
        None, description="encoding of text that is not UTF-8 and has no byte order mark; none refuses it"
    )
    max_file_mb: int = Field(
        readers.MAX_FILE_MB, ge=1, description="largest html, pdf or docx file that is read; txt and md may be larger"
    )


def folder(config: Folder) -> list[dict[str, Any]]:
    """Return a part for each file, by path; a file of another kind is a part that cannot be read.

    Raises:
        UserError: the folder is missing, is a file, is empty, or has no file of a kind that we read.
    """
    root = Path(config.path).expanduser()
    if not root.is_dir():
        what = "is a file: give the folder that it is in" if root.exists() else "does not exist"
        raise UserError(f"source.path names {config.path}, which {what}")
    found = sorted(walk(root))
    if not found:
        raise UserError(f"source.path names {config.path}, which holds no files: put documents in it")
    if not any(reason is None and readers.suffix_of(path.name) in readers.suffixes() for path, reason in found):
        kinds = ", ".join(sorted({path.suffix or path.name for path, _ in found})[:5])
        raise UserError(
            f"{config.path} holds only files of other kinds ({kinds}): we read {', '.join(readers.suffixes())}"
        )
    limits = {"encoding": config.encoding, "max_file_mb": config.max_file_mb}
    return [
        {"doc_id": _name(path, root), "error": reason}
        if reason
        else {"doc_id": _name(path, root), "path": str(path.absolute()), **limits}
        for path, reason in found
    ]


def read(part: dict[str, Any]) -> Iterator[Document]:
    """Yield the document of one file; its text is the file's own for txt and md, and what was extracted else."""
    if "error" in part:
        raise Unreadable(part["error"])
    path = Path(part["path"])
    suffix, size = readers.suffix_of(path.name), path.stat().st_size
    if suffix in _STREAMED and size > PIECE_CHARACTERS:
        yield from _long(part, path, _STREAMED[suffix])
        return
    if reason := readers.too_large(size, part["max_file_mb"]):
        raise Unreadable(reason)
    parsed = readers.parse(path.read_bytes(), suffix, part["encoding"])
    yield Document(
        text=parsed.text,
        title=parsed.title or path.stem,
        metadata=json.dumps(parsed.facts),
        date=parsed.date,
        form=parsed.form,
        pages=parsed.pages,
        **_named(part["doc_id"]),
    )


def _long(part: dict[str, Any], path: Path, form: str) -> Iterator[Document]:
    """Yield a long text in pieces; headings are told within each."""
    title, is_blank = "", True
    for start, text in pieces(path, part["encoding"]):
        if not start:
            title = (title_of(text) if form == "markdown" else "") or path.stem
        if text.strip():
            is_blank = False
            yield Document(text=text, title=title, form=form, offset=start, **_named(part["doc_id"]))
    if is_blank:
        raise Unreadable("it holds no text")


def _named(doc_id: str) -> dict[str, Any]:
    group = Path(doc_id).parent.as_posix()
    return {"doc_id": doc_id, "source": doc_id, "group": "" if group == "." else group}


def _name(path: Path, root: Path) -> str:
    """Return the path in the folder as text; bytes that are no UTF-8 show as escapes."""
    return path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode()
