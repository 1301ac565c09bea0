"""The rows that tables hold: an Arrow schema for each table and a frozen class where code handles one row."""

import hashlib
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa

MESSAGE = pa.struct([("role", pa.string()), ("content", pa.string())])
PROMPT_PASSAGE = pa.struct(
    [("passage_id", pa.string()), ("text", pa.string()), ("title", pa.string()), ("source", pa.string())]
)

DOCUMENT = pa.schema(
    [
        ("doc_id", pa.string()),  # stable name inside its corpus: a path, an id, a qualified name
        ("text", pa.string()),
        ("source", pa.string()),  # where a reader finds it: a path, an address
        ("title", pa.string()),
        ("group", pa.string()),  # what belongs together: a folder, a module
        ("symbol", pa.string()),  # the qualified name it documents; null for prose
        ("metadata", pa.string()),  # JSON
    ]
)

# Everything of a passage but its vector; a table's vectors have one dimension, see passage_schema.
PASSAGE = pa.schema(
    [
        ("passage_id", pa.string()),  # hash of corpus, document, text and occurrence
        ("corpus", pa.string()),  # which source configuration owns the row
        ("doc_id", pa.string()),
        ("text", pa.string()),
        ("source", pa.string()),
        ("title", pa.string()),
        ("group", pa.string()),
        ("start", pa.int64()),  # document.text[start:end] == text, counted in characters
        ("end", pa.int64()),
        ("n_tokens", pa.int64()),  # of the embedder's tokenizer
        ("symbol", pa.string()),
        ("metadata", pa.string()),  # JSON
        ("embedder", pa.string()),  # digest of the embedder that made the vector
    ]
)

QUESTION = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", pa.list_(MESSAGE)),
        ("question", pa.string()),
        ("kind", pa.string()),
        ("answerable", pa.bool_()),
        ("passages", pa.list_(PROMPT_PASSAGE)),
        ("target", pa.int64()),  # 1-based position of the right passage, 0 when unanswerable
        ("reference", pa.string()),  # the demonstration answer
        ("split", pa.string()),  # train | test
    ]
)

DEMONSTRATION = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("prompt", pa.list_(MESSAGE)),
        ("completion", pa.list_(MESSAGE)),
        ("kind", pa.string()),
        ("split", pa.string()),
        ("source", pa.string()),
    ]
)

PREFERENCE = pa.schema(
    [
        ("pair_id", pa.string()),
        ("prompt_id", pa.string()),
        ("prompt", pa.list_(MESSAGE)),
        ("chosen", pa.list_(MESSAGE)),
        ("rejected", pa.list_(MESSAGE)),
        ("chosen_score", pa.float64()),
        ("rejected_score", pa.float64()),
        ("kind", pa.string()),
        ("source", pa.string()),
        ("split", pa.string()),
    ]
)

REFERENCE_LOGPROB = pa.schema(
    [
        ("key", pa.string()),  # hash of pair_id, reference_digest and template_digest
        ("pair_id", pa.string()),
        ("reference_digest", pa.string()),
        ("template_digest", pa.string()),
        ("chosen_logprob", pa.float64()),  # natural log, summed over the completion's tokens
        ("rejected_logprob", pa.float64()),
    ]
)


def passage_schema(dimension: int) -> pa.Schema:
    """Return the schema of a passages table whose vectors have ``dimension`` numbers."""
    return PASSAGE.append(pa.field("vector", pa.list_(pa.float32(), dimension)))


def content_hash(*parts: str) -> str:
    """Return 32 hex digits that name these parts; parts are told apart, so ("ab","c") differs from ("a","bc")."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Document:
    """One text of a corpus, as a source reads it."""

    doc_id: str
    text: str
    source: str
    title: str
    group: str = ""
    symbol: str | None = None
    metadata: str = "{}"

    def row(self) -> dict[str, Any]:
        """Return the plain row that ``DOCUMENT`` describes."""
        return asdict(self)


@dataclass(frozen=True)
class Question:
    """One question with the passages it is asked over; its fields are the columns of ``QUESTION``."""

    prompt_id: str
    prompt: list[dict[str, str]]
    question: str
    kind: str
    answerable: bool
    passages: list[dict[str, str]] = field(default_factory=list)
    target: int = 0
    reference: str = ""
    split: str = "train"

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> "Question":
        """Return the question of a table row, leaving aside columns that are not part of it."""
        return cls(**{name: row[name] for name in QUESTION.names})

    def row(self) -> dict[str, Any]:
        """Return the plain row that ``QUESTION`` describes."""
        return asdict(self)
