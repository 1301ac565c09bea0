"""What is known of one version of an index: a row beside it for each kind of fact, found by version and kind.

An index changes with every build, so a fact is never about "the index": it names the version that it was found of,
and a version without the fact has none.
"""

import json
from typing import Any

from components.config import UserError
from components.data import store


def write(index_ref: str, kind: str, value: dict[str, Any]) -> None:
    """Keep a fact (plain values) of the version that the reference pins; one of the same kind is replaced."""
    import pyarrow as pa

    uri, name, version = store.parse_ref(store.pin(index_ref))
    columns = [("fact_id", pa.string()), ("version", pa.int64()), ("kind", pa.string()), ("value", pa.string())]
    row = {"fact_id": f"{kind}@{version}", "version": version, "kind": kind, "value": json.dumps(value)}
    store.write(uri, f"{name}_facts", [row], schema=pa.schema(columns), key="fact_id")


def read(index_ref: str, kind: str) -> dict[str, Any] | None:
    """Return a fact of the version that the reference means; None where nobody has found it out."""
    uri, name, version = store.parse_ref(store.pin(index_ref))
    ref = store.make_ref(uri, f"{name}_facts")
    if not store.exists(ref):
        return None
    rows = store.read(ref, columns=["value"], where=f"fact_id = {store.quote(f'{kind}@{version}')}")
    return json.loads(rows[0]["value"]) if rows else None


def table_of(index_ref: str, kind: str, *, what: str, option: str) -> str:
    """Return the pinned table that was made of this version of the index, as the fact ``kind`` names it.

    Args:
        what: what the table holds, and
        option: of workflows.exam_index, what makes it: for the message.

    Raises:
        UserError: there is none.
    """
    found = read(index_ref, kind)
    if found is None:
        raise UserError(
            f"{store.pin(index_ref)} has no {what}: run workflows.exam_index with {option}=true, or choose another mode"
        )
    return found["table"]
