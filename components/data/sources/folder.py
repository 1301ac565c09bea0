"""A folder of documents: txt, md, html and pdf files, in subfolders too."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from components.config import Field, InputPath, UserError
from components.data.records import Document
from components.data.sources import SourceConfig, Unreadable


class Folder(SourceConfig):
    """A folder of documents."""

    name: Literal["folder"]
    path: InputPath = Field(description="the folder; hidden files and folders in it are left out")


def folder(config: Folder) -> list[dict[str, Any]]:
    """Return a part for each file, by path; a file of another kind is a part that cannot be read.

    Raises:
        UserError: the folder is missing, is a file, is empty, or has no file of a kind that we read.
    """
    root = Path(config.path).expanduser()
    if not root.is_dir():
        what = "is a file: give the folder that it is in" if root.exists() else "does not exist"
        raise UserError(f"source.path names {config.path}, which {what}")
    files = sorted(path for path in root.rglob("*") if path.is_file() and not _is_hidden(path, root))
    if not files:
        raise UserError(f"source.path names {config.path}, which holds no files: put documents in it")
    if not any(path.suffix.lower() in _READERS for path in files):
        kinds = ", ".join(sorted({path.suffix or path.name for path in files})[:5])
        raise UserError(f"{config.path} holds only files of other kinds ({kinds}): we read {', '.join(_READERS)}")
    return [{"doc_id": path.relative_to(root).as_posix(), "path": str(path.resolve())} for path in files]


def read(part: dict[str, Any]) -> Iterator[Document]:
    """Yield the document of one file; its text is the file's own for txt and md, and what was extracted else."""
    path = Path(part["path"])
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise Unreadable(f"files of kind '{path.suffix}' are not read: convert it to {', '.join(_READERS)}")
    text, title, facts = reader(path)
    if not text.strip():
        raise Unreadable("it holds no text")
    doc_id = part["doc_id"]
    group = Path(doc_id).parent.as_posix()
    yield Document(
        doc_id=doc_id,
        text=text,
        source=doc_id,
        title=title or path.stem,
        group="" if group == "." else group,
        metadata=json.dumps(facts),
    )


def _is_hidden(path: Path, root: Path) -> bool:
    return any(name.startswith(".") for name in path.relative_to(root).parts)


def _decode(path: Path) -> str:
    data = path.read_bytes()
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"it is not {encoding.removesuffix('-sig')} text (byte {error.start}): re-encode it"
        ) from error
    if "\0" in text:
        raise Unreadable("it is not text: it holds zero bytes")
    return text


def _read_text(path: Path) -> tuple[str, str, dict[str, Any]]:
    return _decode(path), "", {}


def _read_markdown(path: Path) -> tuple[str, str, dict[str, Any]]:
    text = _decode(path)
    return text, _heading(text), {}


def _read_html(path: Path) -> tuple[str, str, dict[str, Any]]:
    import trafilatura
    from lxml import html

    page = _decode(path)
    if not page.strip():
        return "", "", {}
    text = trafilatura.extract(
        page, output_format="markdown", include_formatting=True, include_comments=False, favor_recall=True
    ) or trafilatura.html2txt(page)  # all of a page that has no main part
    title = html.fromstring(page.encode(), parser=html.HTMLParser(encoding="utf-8")).findtext(".//title")
    return text, _heading(text) or " ".join((title or "").split()), {}


def _heading(markdown: str) -> str:
    """Return the first heading of the first level, "" where there is none."""
    line = next((line for line in markdown.splitlines() if line.startswith("# ")), "")
    return line.removeprefix("# ").strip()


def _read_pdf(path: Path) -> tuple[str, str, dict[str, Any]]:
    from pypdf import PdfReader

    reader = PdfReader(path)
    if reader.is_encrypted:
        raise Unreadable("it is encrypted: save it without a password")
    pages = [page.extract_text() for page in reader.pages]
    if not any(page.strip() for page in pages):
        raise Unreadable("it has no text layer, as scans have none: run OCR on it first")
    title = reader.metadata.title if reader.metadata else None
    return "\n\n".join(pages), (title or "").strip(), {"pages": len(pages)}


_READERS: dict[str, Callable[[Path], tuple[str, str, dict[str, Any]]]] = {
    ".txt": _read_text,
    ".md": _read_markdown,
    ".html": _read_html,
    ".htm": _read_html,
    ".pdf": _read_pdf,
}
