"""What the sides of the retrieval benchmark read: documents for us, their passages as plain text for peers."""

import gzip
import json
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError
from components.data.sources import list_parts, read_part
from components.data.sources.jsonl import Jsonl
from components.retrieval.chunkers.tokens import Tokens
from components.retrieval.passages import Chunking, Corpus, rows_of

_QUERY_WORDS = 12


@dataclass(frozen=True)
class Inputs:
    """Files that the sides are given."""

    documents: Path  # JSON lines with id, title and text
    passages: Path  # a JSON list of what is embedded, cut as ours cuts it, in an order that chance gave
    queries: Path  # a JSON list of texts
    count: int  # passages


def make_inputs(
    file: Path,
    queries: Path | None,
    folder: Path,
    embedder: Path,
    *,
    documents: int,
    asked: int,
    chunker: Tokens,
    seed: int,
) -> Inputs:
    """Draw documents from a file of JSON lines and cut them as build_index does.

    Args:
        queries: file of JSON lines with a text each; without one, the first words of passages are asked.

    Raises:
        UserError: a file is missing or malformed, or holds too few rows.
    """
    rows = _read(file)
    if len(rows) < documents:
        raise UserError(f"{file} has {len(rows)} documents, and documents={documents} are asked for: give fewer")
    chosen = random.Random(seed).sample(rows, documents)
    path = folder / "documents.jsonl"
    fields = ("id", "title", "text")
    path.write_text("".join(json.dumps({key: row[key] for key in fields if key in row}) + "\n" for row in chosen))
    corpus = Corpus("benchmark", "jsonl", "", str(embedder), chunker)
    chunking = Chunking(corpus)
    texts = [
        row["input"]
        for part in list_parts(Jsonl(name="jsonl", path=str(path)))
        for document in read_part("jsonl", part)
        for row in rows_of(document, chunking, Counter())
    ]
    drawn = random.Random(seed)
    drawn.shuffle(texts)
    questions = [row["text"] for row in _read(queries)] if queries else _openings(texts, drawn)
    files = {"passages.json": texts, "queries.json": (questions * (1 + asked // len(questions)))[:asked]}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    return Inputs(path, folder / "passages.json", folder / "queries.json", len(texts))


def _openings(texts: list[str], drawn: random.Random) -> list[str]:
    return [" ".join(text.split()[:_QUERY_WORDS]) for text in drawn.sample(texts, min(len(texts), 200))]


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        opener: Any = gzip.open if file.suffix == ".gz" else open
        with opener(file, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror or error}") from error
    except ValueError as error:
        raise UserError(f"{file} is no file of JSON lines: {error}") from error
    with_text = [row for row in rows if isinstance(row, dict) and str(row.get("text", "")).strip()]
    if not with_text:
        raise UserError(f"{file} has no rows with a text")
    return with_text
