"""The vector index of a passages table: made where there is none, renewed where it is outgrown, shown when it passed.

An index makes a version of the table. Readers see it only once the exam has measured what it finds; one that failed is
taken back, so that the next update does not carry it along.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from components.data import search, store, versions
from components.retrieval import exam

logger = logging.getLogger(__name__)
_OUTSIDE = 0.1  # share of the rows that an index may lack: they are compared one by one


@dataclass
class Trial:
    """A version of a table whose vector index is examined."""

    index: str  # pinned reference
    before: str  # what it was made of: the same where nothing was to be done
    passed: bool = False  # set by who examines


@contextlib.contextmanager
def renewed(ref: str, kind: str) -> Iterator[Trial]:
    """Give the table the vector index that it should have for as long as it is examined, and for good if it passed.

    Nothing is done where the index is of the kind that is wanted and holds nearly all rows. A reference that pins an
    older version gets none: another one would be examined than it names.

    Args:
        kind: of the index; ``auto`` goes by the number of passages, ``none`` takes away what there is.
    """
    uri, name, _ = store.parse_ref(ref)
    with versions.only_writer(uri, name):  # an update under way is half a table
        before = store.pin(ref)
        trial = Trial(_renew(before, kind), before)
    try:
        yield trial
    finally:
        if trial.index != trial.before:
            with versions.only_writer(uri, name):
                _settle(trial)


def _renew(before: str, kind: str) -> str:
    uri, name, version = store.parse_ref(before)
    if version != store.open_table(store.make_ref(uri, name)).version:
        return before
    passages = store.count(before)
    wanted: Any = exam.index_for(passages) if kind == "auto" else None if kind == "none" else kind
    found = search.vector_index(before)
    if wanted is None:
        return search.drop_vector_index(before) if found else before
    if found and found.kind == wanted and found.outside <= _OUTSIDE * passages:
        return before
    if found:
        logger.info("renewing the vector index: it is %s and lacks %d passages", found.kind, found.outside)
    return search.create_vector_index(before, exam.cells_for(passages), wanted)


def _settle(trial: Trial) -> None:
    """Show readers the version with the new index, or take the index back.

    Whoever has changed the table meanwhile has done so with the index in it, and shows what is there.
    """
    uri, name, version = store.parse_ref(trial.index)
    table = store.open_table(store.make_ref(uri, name))
    is_complete = store.tagged(trial.index, store.COMPLETE) == trial.before
    if trial.passed and is_complete:
        store.move_tag(trial.index, store.COMPLETE)
    elif not trial.passed and table.version == version:
        table.restore(store.parse_ref(trial.before)[2])
        if is_complete:
            store.move_tag(store.make_ref(uri, name, table.version), store.COMPLETE)
