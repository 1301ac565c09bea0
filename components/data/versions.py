"""Tables that take many commits to bring up to date, and whose readers see none of them before the last.

A tag of the table says which version is complete; ``store.pin`` gives that one to whoever names no version. A second
tag says who is at work: what another owner left half-done is taken back, what the same one left is gone on with.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from components.data import store
from components.data.records import content_hash

if TYPE_CHECKING:
    import pyarrow as pa

_UPDATING = "updating-"
_RESTORED = "restored"  # the version that holds what the complete one does, after an update was taken back
logger = logging.getLogger(__name__)


@contextlib.contextmanager
def only_writer(uri: str, name: str) -> Iterator[None]:
    """Let one process at a time change a table; others wait. A kill frees it.

    For a table in an object store, that holds among the hosts that share its scratch folder.
    """
    from filelock import Timeout

    lock = store.lock_of(uri, name)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logger.info("waiting for another process that changes the table %s", name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def begin(uri: str, name: str, owner: str, schema: "pa.Schema | None" = None) -> bool:
    """Keep the table's readers at what is complete now; return whether there is such a table.

    Where there is none and ``schema`` is given, an empty one is made.
    """
    if not store.exists(store.make_ref(uri, name)):
        if schema is None:
            return False
        store.write(uri, name, [], schema=schema, key=None)
    table = store.open_table(store.make_ref(uri, name))
    own = _tag_of(owner)
    tags = table.tags.list()
    if store.COMPLETE not in tags:
        table.tags.create(store.COMPLETE, table.version)
    others = [tag for tag in tags if tag.startswith(_UPDATING) and tag != own]
    if others and store.COMPLETE in tags:
        logger.warning("an update of another corpus in %s did not end: taking back what it did", name)
        table.restore(int(tags[store.COMPLETE]["version"]))
    for tag in others:
        table.tags.delete(tag)
    if own not in tags:
        table.tags.create(own, table.version)
    return True


def is_latest(ref: str) -> bool:
    """Return whether the reference pins what readers have, and nobody has changed the table since, in whole or half."""
    uri, name, version = store.parse_ref(store.pin(ref))
    table = store.open_table(store.make_ref(uri, name))
    tags = {tag: int(found["version"]) for tag, found in table.tags.list().items()}
    if any(tag.startswith(_UPDATING) for tag in tags):
        return False
    complete = tags.get(store.COMPLETE, table.version)
    return version == complete and table.version in (complete, tags.get(_RESTORED))


def take_back(uri: str, name: str, owner: str) -> None:
    """Leave the table as readers have it, if its owner's update is under way."""
    if not store.exists(store.make_ref(uri, name)):
        return
    table = store.open_table(store.make_ref(uri, name))
    tags = table.tags.list()
    if _tag_of(owner) in tags:
        table.restore(int(tags[store.COMPLETE]["version"]))
        store.move_tag(store.make_ref(uri, name, table.version), _RESTORED)
        table.tags.delete(_tag_of(owner))


def widen(uri: str, name: str, schema: "pa.Schema") -> None:
    """Add to a table the columns of ``schema`` that older tables may lack; they are null in its rows."""
    from components.data.schemas import OPTIONAL

    table = store.open_table(store.make_ref(uri, name))
    missing = [field for field in schema if field.name in OPTIONAL and field.name not in table.schema.names]
    if missing:
        table.add_columns(missing)


def publish(uri: str, name: str, owner: str) -> str:
    """Let readers have the latest version from now on; return its pinned reference."""
    table = store.open_table(store.make_ref(uri, name))
    latest = store.make_ref(uri, name, table.version)
    store.move_tag(latest, store.COMPLETE)
    if _tag_of(owner) in table.tags.list():
        table.tags.delete(_tag_of(owner))
    return latest


def _tag_of(owner: str) -> str:
    return _UPDATING + content_hash(owner)[:16]
