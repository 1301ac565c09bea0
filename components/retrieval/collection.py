"""Test collections: documents, questions, and which documents answer which question, read from a folder.

Both layouts in use are read, packed (``.gz``) or not: BEIR's (``corpus.jsonl`` and ``queries.jsonl`` with ``_id``,
``qrels/test.tsv``) and plain JSON lines (``documents.jsonl`` and ``queries.jsonl`` with ``id``, ``qrels.jsonl``).
"""

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from components.config import UserError

T = TypeVar("T")


@dataclass(frozen=True)
class Collection:
    """Texts by id; ``grades`` holds query → document → how relevant it is."""

    documents: dict[str, dict[str, str]]  # id → title and text
    queries: dict[str, str]
    grades: dict[str, dict[str, int]]


def read_collection(folder: str | Path) -> Collection:
    """Return the collection in ``folder``, with the queries that have a relevant document.

    Raises:
        UserError: a file is missing or malformed, a document comes twice, or no query has a relevant document.
    """
    root = Path(folder).expanduser()
    documents = dict(_rows(root, ("documents.jsonl", "corpus.jsonl"), _document))
    texts = dict(_rows(root, ("queries.jsonl",), lambda row: (_id(row), str(row["text"]))))
    grades: dict[str, dict[str, int]] = {}
    for query, document, grade in _grades(root):
        grades.setdefault(query, {})[document] = grade
    usable = [query for query in texts if any(grade > 0 for grade in grades.get(query, {}).values())]
    if not usable:
        raise UserError(f"in {root} no query has a relevant document: check that queries and qrels belong together")
    return Collection(documents, {query: texts[query] for query in usable}, {query: grades[query] for query in usable})


def _document(row: dict[str, Any]) -> tuple[str, dict[str, str]]:
    return _id(row), {"title": str(row.get("title") or ""), "text": str(row.get("text") or "")}


def _id(row: dict[str, Any]) -> str:
    return str(row["_id"] if "_id" in row else row["id"])


def _rows(
    root: Path, names: tuple[str, ...], read: Callable[[dict[str, Any]], tuple[str, T]]
) -> Iterator[tuple[str, T]]:
    """Yield the id of each row of a file of JSON lines, and what ``read`` makes of it."""
    path, lines = _find(root, names), dict[str, int]()
    for number, row in _objects(path):
        try:
            key, value = read(row)
        except (KeyError, TypeError) as error:
            raise UserError(f"{path}, line {number}: expected id and text, and there is no {error}") from error
        if lines.setdefault(key, number) != number:
            raise UserError(f"{path}, line {number}: the id {key} is that of line {lines[key]}: remove one")
        yield key, value


def _objects(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (number, row) for each line that is not blank."""
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}, line {number}: expected a JSON object with id and text ({error})") from error
            if not isinstance(row, dict):
                raise UserError(f"{path}, line {number}: expected a JSON object, got {type(row).__name__}")
            yield number, row


def _grades(root: Path) -> Iterator[tuple[str, str, int]]:
    """Yield (query, document, grade) of each judgement."""
    path = _find(root, ("qrels.jsonl", "qrels/test.tsv", "qrels.tsv"))
    if ".jsonl" in path.name:
        rows: Iterable[tuple[int, dict[str, Any]]] = _objects(path)
        names = ("query_id", "doc_id", "relevance")
    else:
        table = csv.DictReader(io.StringIO(_text(path)), delimiter="\t")
        names = ("query-id", "corpus-id", "score")
        if not set(names) <= set(table.fieldnames or ()):
            raise UserError(f"{path} has to begin with the line query-id, corpus-id, score, tabs between them")
        rows = enumerate(table, 2)
    for number, row in rows:
        try:
            query, document, grade = (row[name] for name in names)
            yield str(query), str(document), int(grade)
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path}, line {number}: expected {', '.join(names)}, the last a whole number ({error})"
            ) from error


def _find(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    raise UserError(f"{root} has no {' or '.join(names)} (or the same with .gz): give a folder with a test collection")


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
