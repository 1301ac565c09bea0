"""An adapter's reference becomes files that are checked, copied to where nothing changes them, and known by digest."""

import os
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from components.config import UserError
from components.models.adapter_base import Carrier, check_served
from components.models.folder import digest
from components.serving.adapters import Adapter, Shelf, split
from components.serving.settings import AdapterOptions, ServedName
from components.tracking.registry import pin_registered, registered_parts, registered_tags, resolve_registered


@dataclass(frozen=True)
class Declared:
    """A serve config's names, their adapters as addresses, and what these addresses mean."""

    names: tuple[ServedName, ...]
    adapters: tuple[Adapter, ...] = ()
    aliases: dict[str, str] = field(default_factory=dict)  # name@alias → version

    def answering(self) -> list[tuple[str, Adapter]]:
        """Return (declared name, the adapter that answers to it) of the names that have one."""
        shelf = Shelf(self.adapters, self.aliases)
        found = [(name.name, shelf.find(name.adapter)) for name in self.names if name.adapter]
        return [(name, adapter) for name, adapter in found if adapter is not None]


def fetch_declared(names: Sequence[ServedName], carrier: Carrier, storage: Path) -> Declared:
    """Return the names with their adapters fetched; over an alias, a name keeps to the alias.

    An adapter from a folder is called like the name that it answers to.

    Raises:
        UserError: as `fetch`, or two names mean different files by one address.
    """
    shelf, settled = Shelf(), []
    for name in names:
        if name.adapter is None:
            settled.append(name)
            continue
        own = None if registered_parts(name.adapter)[0] else name.name
        adapter, alias = fetch(name.adapter, carrier, storage, own)
        shelf.put(adapter)
        if alias:
            shelf.move(alias, adapter.version)
        settled.append(name.model_copy(update={"adapter": alias or adapter.address}))
    return Declared(tuple(settled), tuple(shelf.adapters()), shelf.aliases())


def carrier_of(model: Path, model_digest: str, options: AdapterOptions) -> Carrier:
    """Return what adapters on the model in a folder have to fit, as its lineage page says."""
    from components.tracking.lineage import read_lineage

    page = read_lineage(model) or {}
    facts = page.get("facts", {}) if page.get("kind") == "quantized-model" else {}
    return Carrier(
        model_digest,
        options.max_rank,
        quantized_from=facts.get("base_digest"),
        smoothed=bool(facts.get("method", {}).get("smoothing")),
        inexact=options.inexact,
    )


def fetch(
    source: str, carrier: Carrier, storage: Path, name: str | None = None, version: str | None = None
) -> tuple[Adapter, str | None]:
    """Return the adapter behind a reference, and the ``name@alias`` that the reference names, if it does.

    Args:
        source: ``models:/name@alias``, ``models:/name/version``, ``runs:/id/path`` or an adapter's folder.
        name: of the adapter; none takes the registry's.
        version: none takes the registry's, or for a folder the beginning of its digest.

    Raises:
        UserError: there is no such adapter, it has no name, or it is not one for this model.
    """
    from components.tracking.lineage import read_lineage

    pinned = pin_registered(storage, source)
    known_as, number, alias = registered_parts(pinned)
    if not (name or known_as):
        raise UserError(f"{source} has no name in the registry: give 'name' (and 'version'), too")
    is_reference = source.startswith(("models:/", "runs:/"))
    folder = Path(resolve_registered(storage, pinned) if is_reference else source).expanduser().resolve()
    page = check_served(folder, carrier)
    read_lineage(folder)  # refuses a page that was edited
    found = digest(folder)
    if registered_tags(storage, pinned).get("digest", found) != found:
        raise UserError(f"the files of {pinned} are not those that were registered: register them as another version")
    word = version or number or found[:12]
    adapter = Adapter(
        name=name or known_as,
        version=word,
        digest=found,
        folder=str(_kept(folder, found, storage / "cache" / "adapters")),
        source=pinned,
        kind=page.kind,
        base_digest=page.base_digest,
    )
    split(adapter.address)
    return adapter, f"{adapter.name}@{alias}" if alias else None


def _kept(folder: Path, found: str, shelf: Path) -> Path:
    """Return a copy of the folder that is named by its digest; engines read it again whenever they need it."""
    kept = shelf / found[:32]
    if kept.is_dir():
        return kept
    shelf.mkdir(parents=True, exist_ok=True)
    part = shelf / f".{found[:32]}.{uuid.uuid4().hex[:8]}.part"
    shutil.copytree(folder, part, ignore=shutil.ignore_patterns(".*"))
    try:
        if digest(part) != found:
            raise UserError(f"{folder} changed while it was read: wait until it is written, and load it again")
        if not kept.is_dir():
            os.replace(part, kept)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return kept
