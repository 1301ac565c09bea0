"""One id for everything that shapes an answer: weights, index version, prompt and strategy."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from components.serving.adapters import Adapter
from components.serving.settings import ServedName


def served_lineage(
    name: ServedName,
    model: Path,
    model_digest: str,
    index: str | None,
    embedder_digest: str | None,
    scorer_digest: str | None = None,
    summaries: str | None = None,
    chosen: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the lineage page of one served name; what its adapter changes is in `with_adapter`.

    Its ``lineage_id`` is a SHA-256 over what decides the answers: the weights' digest, the version of the
    index, the embedder, the grounded prompt, how passages are searched and the strategy. ``artefact`` is the
    model's own page, with its parents inside; ``made_from`` lists what that chain ends in.

    Args:
        summaries: pinned table of what the index's groups of passages are about, where the name searches it.
        chosen: what mode ``auto`` means for this version of the index, which a later exam of it may change.
    """
    from components.data import grounding
    from components.tracking.lineage import read_lineage

    searches = name.search is not None
    decisive = {
        "model": model_digest,
        "index": index if searches else None,
        "embedder": embedder_digest if searches else None,
        "search": name.search.model_dump() if name.search else None,
        "prompt": hashlib.sha256(str(grounding.grounded_messages("?", ["."])).encode()).hexdigest()
        if searches
        else None,
        "strategy": {"name": name.strategy, "options": name.options} | _limits(name),
    }
    if summaries:
        decisive["summaries"] = summaries
    if chosen and name.search and name.search.mode == "auto":
        decisive["auto"] = dict(chosen)
    if scorer_digest and name.strategy != "direct":
        decisive["scorer"] = scorer_digest
    artefact = read_lineage(model)
    return {
        "object": "lineage",
        "model": name.name,
        "lineage_id": _id(decisive),
        "decided_by": decisive,
        "quantization": quantization(model),
        "made_from": made_from(artefact) if artefact else None,
        "artefact": artefact,
    }


def _limits(name: ServedName) -> dict[str, Any]:
    limits = name.budget.model_dump(exclude_none=True)
    return {"budget": limits} if limits else {}


def with_adapter(page: Mapping[str, Any], name: str, adapter: Adapter) -> dict[str, Any]:
    """Return a served name's page as it is with an adapter on the model: another id, and the adapter's own ancestry."""
    from components.tracking.lineage import read_lineage

    artefact = read_lineage(adapter.folder)
    decisive = {**page["decided_by"], "adapter": adapter.digest}
    own = {"id": adapter.address, "source": adapter.source, "kind": adapter.kind, "base_digest": adapter.base_digest}
    return {
        **page,
        "model": name,
        "lineage_id": _id(decisive),
        "decided_by": decisive,
        "adapter": {**own, "made_from": made_from(artefact) if artefact else None, "artefact": artefact},
    }


def _id(decisive: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def quantization(model: Path) -> dict[str, Any] | None:
    """Return how the weights in a model folder are quantized, as its config says; none where they are not."""
    config = json.loads((model / "config.json").read_text())
    found = config.get("quantization_config")
    return None if found is None else {key: found[key] for key in ("quant_method", "format") if key in found}


def made_from(page: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the steps of a lineage page and its ancestors, newest first, and the tables and models it starts from."""
    steps, tables, models = [], [], []
    for ancestor in _walk(page):
        reference = ancestor.get("reference")
        if reference is None:
            steps.append({key: ancestor.get(key) for key in ("kind", "lineage_id", "workflow", "run_id", "facts")})
        elif "#" in reference:
            tables.append(reference)
        else:
            models.append(reference)
    return {"steps": steps, "tables": list(dict.fromkeys(tables)), "models": list(dict.fromkeys(models))}


def _walk(page: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield page
    for parent in page.get("parents", ()):
        yield from _walk(parent)
