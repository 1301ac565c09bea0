"""Questions made from an index's own passages, which nobody has to grade: each knows the passage it was made from."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from components.data import store
from components.data.contexts import QuestionConfig
from components.data.questions import COLUMNS, make_questions
from components.data.records import content_hash

if TYPE_CHECKING:
    import pyarrow as pa

_PASSAGES_ASKED_ABOUT = 20_000
_GIVES_ITSELF_AWAY = frozenset({"cloze"})  # repeats its passage word for word: any search by words finds it
_ENOUGH = 50  # questions of other kinds from which on those are left out


@dataclass(frozen=True)
class Asked:
    """One question, the passage that it was made from, and the passages elsewhere that say the very same."""

    question: str
    passage_id: str
    doc_id: str
    kind: str
    copies: tuple[tuple[str, str], ...] = ()  # (passage_id, doc_id)

    def grades(self) -> dict[str, int]:
        """Return passage_id → 1 of every passage that answers."""
        return {passage_id: 1 for passage_id, _ in ((self.passage_id, self.doc_id), *self.copies)}

    def unseen(self) -> str:
        """Return the condition that keeps the documents which answer out of sight."""
        return f"NOT ({store.one_of('doc_id', sorted({self.doc_id, *(doc_id for _, doc_id in self.copies)}))})"


def questions_from(index_ref: str, n: int, seed: int) -> dict[str, Asked]:
    """Return up to ``n`` questions made from the passages of an index, by their number as text.

    Raises:
        UserError: its passages hold too little prose to ask about.
    """
    passages = store.read_arrow(index_ref, columns=COLUMNS, require=True)
    rng, rows = random.Random(seed), passages
    if rows.num_rows > _PASSAGES_ASKED_ABOUT:
        rows = rows.take(sorted(rng.sample(range(rows.num_rows), _PASSAGES_ASKED_ABOUT)))
    documents = dict(zip(rows.column("passage_id").to_pylist(), rows.column("doc_id").to_pylist(), strict=True))
    asked = []
    for question in (one for context in make_questions(rows.to_pylist(), QuestionConfig(), seed) for one in context):
        if question.answerable:
            passage_id = question.passages[question.target - 1]["passage_id"]
            asked.append(Asked(question.question, passage_id, documents[passage_id], question.kind))
    telling = [one for one in asked if one.kind not in _GIVES_ITSELF_AWAY]
    asked = telling if len(telling) >= _ENOUGH else asked
    once = list({one.question: one for one in asked}.values())
    rng.shuffle(once)
    return {str(number): one for number, one in enumerate(_with_copies(once[:n], passages))}


def _with_copies(asked: Sequence[Asked], passages: "pa.Table") -> list[Asked]:
    """Return the questions with the passages whose text differs from their own in case and white space at most."""
    ids = {one.passage_id for one in asked}
    said_by = {passage_id: _said(text) for passage_id, _, text in _plain(passages) if passage_id in ids}
    alike: dict[str, list[tuple[str, str]]] = {said: [] for said in said_by.values()}
    for passage_id, doc_id, text in _plain(passages):
        if (said := _said(text)) in alike:
            alike[said].append((passage_id, doc_id))
    return [
        replace(one, copies=tuple(each for each in alike[said_by[one.passage_id]] if each[0] != one.passage_id))
        for one in asked
    ]


def _plain(passages: "pa.Table") -> Iterator[tuple[str, str, str]]:
    for batch in passages.select(["passage_id", "doc_id", "text"]).to_batches():
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _said(text: str) -> str:
    return content_hash(" ".join(text.casefold().split()))
