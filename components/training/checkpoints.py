"""Checkpoints that count only when they are whole: a marker, written last, lists every file with its size.

Those of a storage in an object store are copied there, so that a run goes on when its host is gone.
"""

import json
import shutil
from pathlib import Path

from components import storage as place
from components.config import UserError
from components.models.folder import write_whole

MARKER = "complete.json"
_SNAPSHOT = "checkpoint_manager_snapshot.json"


def mark_complete(folder: Path, step: int, storage: str = "", *, workers: int) -> None:
    """Declare a checkpoint whole, once every worker has written its part of it.

    Args:
        workers: how many there are.
        storage: of the run: one in an object store gets the checkpoint, and loses those that are no longer here.
    """
    files = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    write_whole(folder / MARKER, json.dumps({"step": step, "workers": workers, "files": files}))
    if place.is_remote(storage):
        kept = place.address(storage, folder.parent)
        place.upload(folder, f"{kept}/{folder.name}")
        for name in _kept_at(kept) - {item.name for item in folder.parent.glob("checkpoint-*")}:
            place.remove(f"{kept}/{name}")


def is_complete(folder: Path) -> bool:
    """Return whether every file that the marker lists is there in its full size."""
    marker = folder / MARKER
    if not marker.is_file():
        return False
    files = json.loads(marker.read_text())["files"]
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items())


def workers_of(folder: Path) -> int:
    """Return how many workers wrote a whole checkpoint."""
    return int(json.loads((folder / MARKER).read_text())["workers"])


def latest(checkpoints: Path) -> Path | None:
    """Return the last complete ``checkpoint-<step>`` folder, if there is one."""
    found = [folder for folder in checkpoints.glob("checkpoint-*") if is_complete(folder)]
    return max(found, key=_step, default=None)


def prepare(checkpoints: Path, identity: dict[str, str], storage: str = "") -> Path | None:
    """Clear away what a killed run left half-written; return the checkpoint to go on from, if any.

    Args:
        identity: what a checkpoint must have been made from (digests, settings) to be gone on from.
        storage: of the run; one in an object store may have a later checkpoint than this host.

    Raises:
        UserError: the folder holds checkpoints of something else.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    page = checkpoints / "identity.json"
    kept = place.address(storage, checkpoints) if place.is_remote(storage) else None
    if kept:
        _fetch(checkpoints, kept)
    if page.is_file():
        known = json.loads(page.read_text())
        wrong = [name for name in identity if known.get(name) != identity[name]]
        if wrong:
            raise UserError(
                f"{checkpoints} holds checkpoints of another {', '.join(wrong)}: delete that folder to train from "
                "the start, or use another storage"
            )
    else:
        write_whole(page, json.dumps(identity, indent=2))
        if kept:
            place.upload(page, f"{kept}/{page.name}")
    # Ray Train would believe its own list of checkpoints, which a kill can leave torn; the markers decide here.
    (checkpoints / _SNAPSHOT).unlink(missing_ok=True)
    drop_incomplete(checkpoints)
    return latest(checkpoints)


def drop_incomplete(checkpoints: Path) -> None:
    """Remove what was being written when its writers died: others would write into it and leave some of it there."""
    for folder in checkpoints.glob("checkpoint-*"):
        if not is_complete(folder):
            shutil.rmtree(folder)


def _fetch(checkpoints: Path, kept: str) -> None:
    """Bring the last whole checkpoint from the store, if it is later than this host's, and what it was made from."""
    here = latest(checkpoints)
    for name in sorted(_kept_at(kept), key=lambda name: _step(Path(name)), reverse=True):
        if here is not None and _step(Path(name)) <= _step(here):
            break
        folder = place.download(f"{kept}/{name}", checkpoints / name)
        if is_complete(folder):
            place.download(f"{kept}/identity.json", checkpoints / "identity.json")
            break
        shutil.rmtree(folder)  # its upload was cut off


def _kept_at(kept: str) -> set[str]:
    return {name.partition("/")[0] for name in place.listing(kept) if name.startswith("checkpoint-")}


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])
