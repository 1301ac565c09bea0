"""A git repository's files at a commit: a checkout on this machine, or a clone of an address."""

import fnmatch
import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import model_validator

from components.config import Field, InputPath, UserError
from components.data import readers
from components.data.records import Document, content_hash
from components.data.sources import SourceConfig, Unreadable
from components.data.sources._encodings import Encoding

_TIMEOUT_S = 600
_ADDRESS = re.compile(r"(?:https?|ssh|git|file)://.+|[\w.-]+@[\w.-]+:.+")


class Git(SourceConfig):
    """Files of a git repository."""

    name: Literal["git"]
    path: InputPath | None = Field(None, description="folder of a checkout or a bare repository")
    url: str | None = Field(
        None, description="address to clone instead; what moves there is noticed with --force, or by naming a revision"
    )
    revision: str = Field("HEAD", min_length=1, description="commit, branch or tag whose files are read")
    patterns: list[str] = Field(
        ["*.md", "*.txt", "*.rst", "*.html", "*.pdf", "*.docx"],
        min_length=1,
        description="files that are read, by name (*.py) or by path from the root (docs/*.md; * goes over folders)",
    )
    exclude: list[str] = Field([], description="patterns of files that are left out of those")
    encoding: Encoding = Field(
        None, description="encoding of text that is not UTF-8 and has no byte order mark; none refuses it"
    )
    max_file_mb: int = Field(8, ge=1, description="largest file that is read")
    clones: str = Field("~/.cache/raylign/git", description="folder of clones, which every node must see")

    @model_validator(mode="after")
    def _one_place(self) -> "Git":
        if (self.path is None) == (self.url is None):
            raise UserError("source needs either path, a checkout's folder, or url, an address to clone")
        if self.url is not None and not _ADDRESS.fullmatch(self.url):
            raise UserError(f"source.url got '{self.url}': give https://…, ssh://…, git://…, file://… or user@host:…")
        if self.revision.startswith("-"):
            raise UserError(f"source.revision got '{self.revision}': give a commit, a branch or a tag")
        return self


def git(config: Git) -> list[dict[str, Any]]:
    """Return a part for each file that matches; what is committed counts, not what lies in the work tree.

    Raises:
        UserError: there is no repository or no such revision, or no file in it matches.
    """
    repository = _clone(config) if config.url else Path(str(config.path)).expanduser().resolve()
    commit = _git(repository, "rev-parse", "--verify", f"{config.revision}^{{commit}}").strip()
    changes = _last_changes(repository, commit)
    parts = []
    for line in _git(repository, "ls-tree", "-r", "-z", "--long", "--full-tree", commit).split("\0"):
        if line:
            facts, _, path = line.partition("\t")
            mode, _, blob, size = facts.split()
            if _matches(path, config.patterns) and not _matches(path, config.exclude):
                parts.append(_part(repository, path, mode, blob, size, changes.get(path, (commit, None)), config))
    if not parts:
        raise UserError(f"no file of {config.url or config.path} matches {', '.join(config.patterns)}: change patterns")
    return sorted(parts, key=lambda part: part["doc_id"])


def read(part: dict[str, Any]) -> Iterator[Document]:
    """Yield the document of one file; a kind that has no reader of its own is read as text."""
    if "error" in part:
        raise Unreadable(part["error"])
    path = PurePosixPath(part["doc_id"])
    data = _output(Path(part["repository"]), "cat-file", "blob", part["blob"])
    suffix = readers.suffix_of(path.name)
    parsed = readers.parse(data, suffix if suffix in readers.suffixes() else ".txt", part["encoding"])
    yield Document(
        doc_id=part["doc_id"],
        text=parsed.text,
        source=part["doc_id"],
        title=parsed.title or path.name,
        group="" if str(path.parent) == "." else str(path.parent),
        metadata=json.dumps({**parsed.facts, "path": part["doc_id"], "commit": part["commit"]}),
        date=part["date"],
        form=parsed.form,
        pages=parsed.pages,
    )


def _part(
    repository: Path, path: str, mode: str, blob: str, size: str, change: tuple[str, str | None], config: Git
) -> dict[str, Any]:
    if mode == "120000":
        return {"doc_id": path, "error": "it is a link, and links in repositories are not followed"}
    if mode == "160000":
        return {"doc_id": path, "error": "it is a submodule: index that repository by itself"}
    if reason := readers.too_large(int(size), config.max_file_mb):
        return {"doc_id": path, "error": reason}
    commit, date = change
    return {
        "doc_id": path,
        "repository": str(repository),
        "blob": blob,
        "length": int(size),
        "commit": commit,
        "date": date,
        "encoding": config.encoding,
    }


def _matches(path: str, patterns: list[str]) -> bool:
    name = path.rpartition("/")[2]
    return any(fnmatch.fnmatchcase(path if "/" in pattern else name, pattern) for pattern in patterns)


def _last_changes(repository: Path, commit: str) -> dict[str, tuple[str, str | None]]:
    """Return path → (commit that changed it last, when): a commit elsewhere leaves a file's facts as they were."""
    log = _git(
        repository,
        "log",
        "-z",
        "--format=%x01%H %cI",
        "--name-only",
        "--no-renames",
        "--diff-merges=first-parent",
        commit,
    )
    found: dict[str, tuple[str, str | None]] = {}
    for entry in log.split("\x01")[1:]:
        head, *paths = entry.replace("\n", "\0", 1).split("\0")
        sha, _, date = head.partition(" ")
        for path in paths:
            found.setdefault(path.lstrip("\n"), (sha, readers.iso_date(date)))
    return found


def _clone(config: Git) -> Path:
    """Return a bare clone of the address, brought up to date."""
    from filelock import FileLock

    clones = Path(config.clones).expanduser()
    clones.mkdir(parents=True, exist_ok=True)
    folder = clones.resolve() / content_hash(str(config.url))
    with FileLock(folder.with_suffix(".lock")):
        if not (folder / "HEAD").is_file():
            _git(clones, "clone", "--quiet", "--mirror", "--", str(config.url), str(folder))
        else:
            _git(folder, "remote", "update", "--prune")
    return folder


def _git(folder: Path, *arguments: str) -> str:
    return _output(folder, *arguments).decode("utf-8", "backslashreplace")


def _output(folder: Path, *arguments: str) -> bytes:
    """Return what git writes.

    Raises:
        UserError: with git's own words.
    """
    # It must not ask for a password, nor run what an address (ext::) or the repository's own settings name.
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh"}
    environment |= {"GIT_NO_LAZY_FETCH": "1"}
    environment |= {"GIT_SSH_COMMAND": environment.get("GIT_SSH_COMMAND", "ssh -o BatchMode=yes"), "LC_ALL": "C"}
    command = ["git", "-C", str(folder), "-c", "log.showSignature=false", *arguments]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S, check=False
        )
    except FileNotFoundError as error:
        raise UserError("the source git needs the program git: install it") from error
    except subprocess.TimeoutExpired as error:
        raise UserError(f"git {arguments[0]} took longer than {_TIMEOUT_S} s: clone by hand and give path") from error
    if done.returncode:
        reason = (done.stderr.decode(errors="replace").strip().splitlines() or ["it gave no reason"])[-1]
        raise UserError(f"git {arguments[0]} of {folder} failed ({reason}): check source's path, url and revision")
    return done.stdout
