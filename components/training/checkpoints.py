"""Checkpoints that count only when they are whole: a marker, written last, lists every file with its size."""

import json
import shutil
from pathlib import Path

from components.config import UserError
from components.models.folder import write_whole

MARKER = "complete.json"
_SNAPSHOT = "checkpoint_manager_snapshot.json"


def mark_complete(folder: Path, step: int) -> None:
    """Declare a checkpoint whole, once every worker has written its part of it."""
    files = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    write_whole(folder / MARKER, json.dumps({"step": step, "files": files}))


def is_complete(folder: Path) -> bool:
    """Return whether every file that the marker lists is there in its full size."""
    marker = folder / MARKER
    if not marker.is_file():
        return False
    files = json.loads(marker.read_text())["files"]
    return all((folder / name).is_file() and (folder / name).stat().st_size == size for name, size in files.items())


def latest(checkpoints: Path) -> Path | None:
    """Return the last complete ``checkpoint-<step>`` folder, if there is one."""
    found = [folder for folder in checkpoints.glob("checkpoint-*") if is_complete(folder)]
    return max(found, key=_step, default=None)


def prepare(checkpoints: Path, identity: dict[str, str]) -> Path | None:
    """Clear away what a killed run left half-written; return the checkpoint to go on from, if any.

    Args:
        identity: what a checkpoint must have been made from (digests, settings) to be gone on from.

    Raises:
        UserError: the folder holds checkpoints of something else.
    """
    checkpoints.mkdir(parents=True, exist_ok=True)
    page = checkpoints / "identity.json"
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
    # Ray Train would believe its own list of checkpoints, which a kill can leave torn; the markers decide here.
    (checkpoints / _SNAPSHOT).unlink(missing_ok=True)
    for folder in checkpoints.glob("checkpoint-*"):
        if not is_complete(folder):
            shutil.rmtree(folder)
    return latest(checkpoints)


def _step(folder: Path) -> int:
    return int(folder.name.rpartition("-")[2])
