"""The rows that tables hold: frozen classes where code handles one row, and the schemas of all tables.

The schemas live in ``schemas.py`` and are offered here by name; only using one loads Arrow, which a
workflow's ``--help`` must not.
"""

import hashlib
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from components.data.schemas import (
        DEMONSTRATION,
        DOCUMENT,
        DROPPED,
        LABELLED,
        MESSAGE,
        ONLINE_PREFERENCE,
        PASSAGE,
        PREFERENCE,
        PROMPT_PASSAGE,
        QUESTION,
        REFERENCE_LOGPROB,
        STEPS,
        passage_schema,
    )

__all__ = [
    "DEMONSTRATION",
    "DOCUMENT",
    "DROPPED",
    "LABELLED",
    "MESSAGE",
    "ONLINE_PREFERENCE",
    "PASSAGE",
    "PREFERENCE",
    "PROMPT_PASSAGE",
    "QUESTION",
    "REFERENCE_LOGPROB",
    "STEPS",
    "Document",
    "Question",
    "content_hash",
    "passage_schema",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    from components.data import schemas

    return getattr(schemas, name)


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
    """One text of a corpus, as a source reads it, or a piece of one that is too long to be read at once."""

    doc_id: str
    text: str
    source: str
    title: str
    group: str = ""
    symbol: str | None = None
    metadata: str = "{}"
    date: str | None = None
    form: str = "text"
    pages: list[dict[str, Any]] = field(default_factory=list)
    offset: int = 0

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
        return cls(**{column.name: row[column.name] for column in fields(cls)})

    def row(self) -> dict[str, Any]:
        """Return the plain row that ``QUESTION`` describes."""
        return asdict(self)
