"""The lineage page that travels with every artefact: what it was made from, by which run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.config import UserError
from components.tracking.environment import commit
from components.tracking.run import Run

FILE_NAME = "lineage.json"


def write_lineage(
    folder: str | Path, *, kind: str, run: Run, parents: Sequence[str | Path], facts: Mapping[str, Any]
) -> str:
    """Write ``lineage.json`` into ``folder`` and the run's artefacts; return its id, a SHA-256 over all that it says.

    Args:
        kind: what the artefact is: index, preferences, adapter, model, quantized-model …
        parents: folders that carry a lineage page of their own (embedded whole, so that the chain can be
            read where the parents are out of reach), table references, or model references.
        facts: what decided the result: digests, versions, the recipe.
    """
    page: dict[str, Any] = {
        "kind": kind,
        "workflow": run.workflow,
        "run_id": run.id,
        "step_key": run.key,
        "commit": commit(),
        "facts": dict(facts),
        "parents": [_parent(parent) for parent in parents],
    }
    page["lineage_id"] = hashlib.sha256(json.dumps(page, sort_keys=True).encode()).hexdigest()
    text = json.dumps(page, indent=2, sort_keys=True)
    (Path(folder) / FILE_NAME).write_text(text)
    run.log_text(text, FILE_NAME)
    return page["lineage_id"]


def read_lineage(folder: str | Path) -> dict[str, Any] | None:
    """Return the lineage page of an artefact's folder; none where it was made elsewhere and has no page.

    Raises:
        UserError: the page was changed after it was written.
    """
    path = Path(folder) / FILE_NAME
    if not path.is_file():
        return None
    page = json.loads(path.read_text())
    body = {name: value for name, value in page.items() if name != "lineage_id"}
    if hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest() != page.get("lineage_id"):
        raise UserError(f"{path} was edited: its contents do not match its lineage id; make the artefact again")
    return page


def _parent(parent: str | Path) -> dict[str, Any]:
    page = read_lineage(parent) if Path(parent).is_dir() else None
    return page if page is not None else {"reference": str(parent)}
