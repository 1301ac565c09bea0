"""Where things are kept: a folder, or an object store that means the same on every host (``s3://``, ``gs://``).

What is in an object store is worked on in a local copy, the scratch folder, which is laid out as the store is: a
path there and an address in the store name the same thing. Tables are the exception, as LanceDB reads a store itself.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from components.config import UserError

SCRATCH_VARIABLE = "RAYLIGN_SCRATCH"
_REMOTE = ("s3://", "gs://")
_NOTE = ".fetched.json"


def is_remote(place: str) -> bool:
    """Return whether a reference is an address in an object store."""
    return place.startswith(_REMOTE)


def normal(place: str) -> str:
    """Return a storage as everything else expects it: an absolute path, or an address without a final slash.

    Raises:
        UserError: a scheme that is not supported, or an address without a bucket.
    """
    if is_remote(place):
        if not urlsplit(place).netloc:
            raise UserError(f"storage={place} names no bucket: write {place[:2]}://<bucket>/<folder>")
        return place.rstrip("/")
    return str(Path(plain(place)).expanduser().resolve())


def resolved(value: str) -> str:
    """Return a local path that exists as an absolute one, with the table after its #; anything else as it is."""
    path, mark, table = value.partition("#")
    path = plain(path) if path.startswith("file://") else path
    exists = path and Path(path).expanduser().exists()
    return str(Path(path).expanduser().resolve()) + mark + table if exists else value


def plain(place: str) -> str:
    """Return ``file://`` addresses as the paths that they are, anything else as it is.

    Raises:
        UserError: another scheme.
    """
    scheme = re.match(r"([a-zA-Z][\w+.-]*)://", place)
    if scheme is None or is_remote(place):
        return place
    if scheme[1] != "file":
        raise UserError(f"{place}: {scheme[1]}:// is not supported; give a path, file://, s3:// or gs://")
    return unquote(urlsplit(place).path)


def folder(place: str) -> Path:
    """Return where a storage is worked on: itself if it is a folder, else its scratch folder on this host."""
    if not is_remote(place):
        return Path(plain(place))
    root = os.environ.get(SCRATCH_VARIABLE) or Path.home() / ".cache" / "raylign" / "scratch"
    words = re.sub(r"[^\w.-]+", "-", place.partition("://")[2])
    return Path(root).expanduser().resolve() / f"{words[:40]}-{hashlib.sha256(place.encode()).hexdigest()[:12]}"


def address(place: str, path: str | Path) -> str:
    """Return the address of a path within ``folder(place)``; of any other path, and in a local storage, itself."""
    root = folder(place)
    if not is_remote(place) or not Path(path).is_relative_to(root):
        return str(path)
    inner = Path(path).relative_to(root)
    return place if inner == Path() else f"{place}/{inner.as_posix()}"


def local(place: str, target: str) -> Path:
    """Return where the thing at the address ``target`` is copied to; ``place`` is the storage of who asks."""
    if target == place or target.startswith(f"{place}/"):
        return folder(place) / target[len(place) + 1 :]
    return folder(place) / "fetched" / hashlib.sha256(target.encode()).hexdigest()[:16] / target.rpartition("/")[2]


def check(place: str) -> None:
    """Write to the storage and take it away again; a folder is made.

    Raises:
        UserError: it cannot be written to, with the system's or the service's own words.
    """
    if not is_remote(place):
        _check_folder(folder(place), f"storage={place}")
        return
    try:
        system, path = _open(f"{place}/.writable-{uuid.uuid4().hex}")
        with system.open_output_stream(path) as stream:
            stream.write(b"")
        system.delete_file(path)
    except OSError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"cannot write to {place}: check the bucket and the credentials ({reason})") from error
    _check_folder(folder(place), f"{folder(place)}, where {place} is worked on ({SCRATCH_VARIABLE}),")


def _check_folder(path: Path, name: str) -> None:
    """Make a folder and write to it. Raises UserError, which calls it ``name``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix=".writable-"):
            pass
    except OSError as error:
        raise UserError(f"{name} is no folder that can be written to: {error.strerror}") from error


def listing(target: str) -> dict[str, list[int]]:
    """Return name → [bytes, time of change in ns] of what lies at an address: a file's name is "", nothing has none."""
    from pyarrow import fs

    system, path = _open(target)
    info = system.get_file_info(path)
    if info.type == fs.FileType.File:
        return {"": [info.size, info.mtime_ns]}
    found = system.get_file_info(fs.FileSelector(path, recursive=True, allow_not_found=True))
    files = [item for item in found if item.type == fs.FileType.File]
    return {item.path[len(path) + 1 :]: [item.size, item.mtime_ns] for item in files}


def exists(target: str) -> bool:
    """Return whether there is anything at an address."""
    from pyarrow import fs

    system, path = _open(target)
    return system.get_file_info(path).type != fs.FileType.NotFound


def upload(source: Path, target: str) -> None:
    """Copy a file or a folder to an address; what a folder there had besides is taken away, once the new is whole."""
    from pyarrow import fs

    system, path = _open(target)
    if source.is_file():
        fs.copy_files(str(source), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=system)
        return
    own = {item.relative_to(source).as_posix() for item in source.rglob("*") if item.is_file()}
    if own:
        fs.copy_files(str(source), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=system)
    for name in set(listing(target)) - own - {""}:
        system.delete_file(f"{path}/{name}")


def remove(target: str) -> None:
    """Take away everything at an address."""
    from pyarrow import fs

    system, path = _open(target)
    kind = system.get_file_info(path).type
    if kind == fs.FileType.File:
        system.delete_file(path)
    elif kind == fs.FileType.Directory:
        system.delete_dir(path)


def download(target: str, path: Path) -> Path:
    """Copy what lies at an address to ``path``, whole or not at all, unless it is there and has not changed since.

    Raises:
        UserError: there is nothing at the address.
    """
    from pyarrow import fs

    found = listing(target)
    if not found:
        raise UserError(f"there is nothing at {target}: correct it, or run the workflow that makes it")
    note = path.with_name(f".{path.name}{_NOTE}")
    if path.exists() and note.is_file() and json.loads(note.read_text()) == found:
        return path
    system, source = _open(target)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    for name in found:  # pyarrow makes only the folders that the store itself has as such
        (part / name).parent.mkdir(parents=True, exist_ok=True)
    try:
        fs.copy_files(source, str(part), source_filesystem=system, destination_filesystem=fs.LocalFileSystem())
        _replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
    note.write_text(json.dumps(found))
    return path


@contextlib.contextmanager
def fetched(place: str) -> Iterator[Path]:
    """Give what lies at a path or an address as a local path, for as long as the body runs. Raises as ``download``."""
    if not is_remote(place):
        yield Path(place)
        return
    with tempfile.TemporaryDirectory() as scratch:
        yield download(place, Path(scratch) / place.rpartition("/")[2])


def is_copy(path: Path) -> bool:
    """Return whether what lies at ``path`` is what ``download`` has put there."""
    return path.with_name(f".{path.name}{_NOTE}").is_file()


def table_options(target: str, env: Mapping[str, str] = os.environ) -> dict[str, str] | None:
    """Return what LanceDB needs to know of an object store beyond the credentials, which it finds itself."""
    endpoint = _endpoint(env)
    if not target.startswith("s3://") or not endpoint:
        return None
    return {"aws_endpoint": endpoint, "aws_region": _region(env) or "us-east-1"} | (
        {"allow_http": "true"} if endpoint.startswith("http://") else {}
    )


def _replace(part: Path, path: Path) -> None:
    """Put ``part`` in the place of what was at ``path``."""
    old = path.with_name(f"{part.name}.old")
    if path.is_dir():
        os.replace(path, old)
    os.replace(part, path)
    shutil.rmtree(old, ignore_errors=True)


def _open(target: str) -> tuple[Any, str]:
    """Return pyarrow's file system of an address and the path in it."""
    from pyarrow import fs

    scheme, _, path = target.partition("://")
    if scheme == "gs":
        return fs.GcsFileSystem(), path
    endpoint = _endpoint(os.environ)
    region = _region(os.environ)
    if endpoint:
        scheme, _, host = endpoint.rstrip("/").rpartition("://")
        return fs.S3FileSystem(endpoint_override=host, scheme=scheme or "https", region=region or "us-east-1"), path
    return fs.S3FileSystem(region=region or fs.resolve_s3_region(path.partition("/")[0])), path


def _endpoint(env: Mapping[str, str]) -> str | None:
    return env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")


def _region(env: Mapping[str, str]) -> str | None:
    return env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
