"""Test collections: documents, questions, and which documents answer which question, read from a folder.

Both layouts in use are read, packed (``.gz``) or not: BEIR's (``corpus.jsonl`` and ``queries.jsonl`` with ``_id``,
``qrels/test.tsv``) and plain JSON lines (``documents.jsonl`` and ``queries.jsonl`` with ``id``, ``qrels.jsonl``).
"""

import csv
import gzip
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError


@dataclass(frozen=True)
class Collection:
    """Texts by id; ``grades`` holds query → document → how relevant it is."""

    documents: dict[str, dict[str, str]]  # id → title and text
    queries: dict[str, str]
    grades: dict[str, dict[str, int]]


def read_collection(folder: str | Path) -> Collection:
    """Return the collection in ``folder``, with the queries that have a relevant document.

    Raises:
        UserError: a file is missing or malformed, or no query has a relevant document.
    """
    root = Path(folder).expanduser()
    documents = {_id(row): _document(row) for row in _lines(root, ("documents.jsonl", "corpus.jsonl"))}
    texts = {_id(row): str(row["text"]) for row in _lines(root, ("queries.jsonl",))}
    grades: dict[str, dict[str, int]] = {}
    for row in _grades(root):
        grades.setdefault(str(row["query_id"]), {})[str(row["doc_id"])] = int(row["relevance"])
    usable = [query for query in texts if any(grade > 0 for grade in grades.get(query, {}).values())]
    if not usable:
        raise UserError(f"in {root} no query has a relevant document: check that queries and qrels belong together")
    return Collection(documents, {query: texts[query] for query in usable}, {query: grades[query] for query in usable})


def _document(row: dict[str, Any]) -> dict[str, str]:
    return {"title": str(row.get("title") or ""), "text": str(row.get("text") or "")}


def _id(row: dict[str, Any]) -> str:
    return str(row["_id"] if "_id" in row else row["id"])


def _lines(root: Path, names: tuple[str, ...]) -> list[dict[str, Any]]:
    path = _find(root, names)
    rows = []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
                _id(row)
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{path}, line {number}: expected a JSON object with id and text ({error})") from error
            rows.append(row)
    return rows


def _grades(root: Path) -> list[dict[str, Any]]:
    path = _find(root, ("qrels.jsonl", "qrels/test.tsv", "qrels.tsv"))
    text = _text(path)
    if ".jsonl" in path.name:
        return [json.loads(line) for line in text.split("\n") if line.strip()]
    names = {"query-id": "query_id", "corpus-id": "doc_id", "score": "relevance"}
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t"))
    if not rows or not set(names) <= set(rows[0]):
        raise UserError(f"{path} has to begin with the line query-id, corpus-id, score, tabs between them")
    return [{ours: row[theirs] for theirs, ours in names.items()} for row in rows]


def _find(root: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        for path in (root / name, root / f"{name}.gz"):
            if path.is_file():
                return path
    raise UserError(f"{root} has no {' or '.join(names)} (or the same with .gz): give a folder with a test collection")


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
