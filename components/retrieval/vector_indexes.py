"""The vector index of a passages table: made where there is none, renewed where it is outgrown, shown when it passed.

An index makes a version of the table. Readers see it only once the exam has measured what it finds; one that failed, or
whose exam was killed, is taken back, so that no update carries it along.
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
_OWNER = "vector index"  # of the change that is under way while an index is examined


@dataclass
class Trial:
    """A version of a table whose vector index is examined."""

    index: str  # pinned reference
    before: str  # what it was made of: the same where nothing was to be done
    passed: bool = False  # set by who examines


@contextlib.contextmanager
def renewed(ref: str, kind: str) -> Iterator[Trial]:
    """Give the table the vector index that it should have for as long as it is examined, and for good if it passed.

    Nothing is done where the index is of the kind that is wanted and holds nearly all rows. A reference that pins
    another version than readers have gets none, and neither has a table whose update did not end: something else would
    be examined than is named. One exam of a table takes place at a time; an update may begin meanwhile, and takes the
    index back that has not passed yet.

    Args:
        kind: of the index; ``auto`` keeps the one that there is, else goes by the number of passages, ``none`` takes
            away what there is.
    """
    uri, name, _ = store.parse_ref(ref)
    with store.lock_of(uri, f"{name}.exam"):
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
    uri, name, _ = store.parse_ref(before)
    versions.take_back(uri, name, _OWNER)  # what an exam left that was killed
    passages, found = store.count(before), search.vector_index(before)
    wanted: Any = None if kind == "none" else kind
    if kind == "auto":
        wanted = found.kind if found else exam.index_for(passages)
    if wanted == (found.kind if found else None) and (found is None or found.outside <= _OUTSIDE * passages):
        return before
    if not versions.is_latest(before):
        logger.warning(
            "%s stays without a %s index: it is not what readers have, or an update is under way", before, kind
        )
        return before
    if found:
        logger.info("renewing the vector index: it is %s and lacks %d passages", found.kind, found.outside)
    versions.begin(uri, name, _OWNER)
    if wanted is None:
        return search.drop_vector_index(before)
    return search.create_vector_index(before, exam.cells_for(passages), wanted)


def _settle(trial: Trial) -> None:
    """Show readers the version with the new index, or take the index back.

    Whoever has changed the table meanwhile has taken it back already, and shows what is there.
    """
    uri, name, version = store.parse_ref(trial.index)
    if trial.passed and version == store.open_table(store.make_ref(uri, name)).version:
        versions.publish(uri, name, _OWNER)
    else:
        versions.take_back(uri, name, _OWNER)
