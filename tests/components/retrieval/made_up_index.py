"""An index of made-up passages, which questions can be made from, with vectors at random."""

import numpy as np

from components.data import search, store
from components.data.records import PASSAGE, passage_schema

DIMENSION = 16
_SUBJECTS = ("queue", "heap", "lock", "socket", "thread", "buffer", "cursor", "parser", "timer", "cache")
_VERBS = ("Close", "Open", "Copy", "Merge", "Split", "Reset", "Rotate", "Encode", "Validate", "Compress")


def make_index(uri: str, n: int, copies: tuple[int, ...] = ()) -> str:
    """Passages like documentation of functions: each has a purpose and an exception of its own.

    Args:
        copies: numbers of passages that come again, in other letters, as those of the document ``old``.
    """
    rng = np.random.default_rng(0)
    rows = []
    for number in range(n):
        subject, verb = _SUBJECTS[number % 10], _VERBS[number // 10 % 10]
        name = f"{subject}.{verb.lower()}{number}"
        purpose, reason = f"{verb} the {subject} of kind {_word(number)}.", _word(7 * number)
        text = f"{name}()\n\n{purpose} Raises Error{number} when it is {reason}."
        shared = dict.fromkeys(PASSAGE.names, name) | {"corpus": "c", "metadata": '{"kind": "function"}'}
        own = {"text": text, "group": subject, "start": 0, "end": len(text), "n_tokens": 20}
        rows.append(shared | own | {"vector": rng.normal(size=DIMENSION)})
    for number in copies:
        one = rows[number]
        rows.append({**one, "passage_id": f"old {one['passage_id']}", "doc_id": "old", "text": one["text"].upper()})
    store.write(uri, "passages", rows, schema=passage_schema(DIMENSION), key="passage_id")
    return search.create_fulltext(f"{uri}#passages", "text")


def _word(number: int) -> str:
    return "".join("bcdfghjklm"[int(digit)] + "a" for digit in str(number))
