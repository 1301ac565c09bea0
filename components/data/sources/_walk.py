"""The files below a folder, however deep, and what of it cannot be looked at."""

import os
from collections.abc import Iterator
from pathlib import Path


def walk(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Yield (path, None) for each file below ``root`` that is not hidden, or (path, why it is not read).

    Links to files are read; links to folders are not followed, so that a loop of them ends. No call stack grows with
    the depth.
    """
    waiting = [root]
    while waiting:
        folder = waiting.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:  # no permission, or a path longer than the system takes
            yield folder, f"the folder cannot be read: {error.strerror}"
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                waiting.append(path)
            elif entry.is_symlink() and (reason := _broken_link(path)):
                yield path, reason
            else:
                yield path, None if path.is_file() else "it is no file, but a pipe, a socket or a device"


def _broken_link(path: Path) -> str | None:
    try:
        is_file = path.resolve(strict=True).is_file()
    except OSError as error:
        return f"it is a link that leads nowhere: {error.strerror}"
    except RuntimeError:  # Python's own word for a loop
        return "it is a link that leads to itself"
    return None if is_file else "it is a link to a folder, and those are not followed: name that folder itself"
