"""What a model folder must hold, and the digest that names its content."""

import hashlib
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from components.config import UserError

_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.txt", "vocab.json")
_DIGESTED = {".safetensors", ".bin", ".json", ".jinja", ".model", ".txt"}
_NOT_DIGESTED = {"lineage.json"}


def check_folder(folder: Path) -> Path:
    """Return the absolute path of a model folder that has its config, every weight shard and a tokenizer.

    Raises:
        UserError: naming what is missing.
    """
    if not folder.is_dir():
        raise UserError(f"no model at {folder}: the folder does not exist")
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise UserError(f"{folder} is an adapter, not a model: merge it first (workflows.merge_adapter)")
        raise UserError(f"{folder} is not a model folder: it has no config.json")
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text())["weight_map"].values())
        missing = sorted(shard for shard in shards if not (folder / shard).is_file())
        if missing:
            raise UserError(
                f"{folder} is incomplete: {len(missing)} of {len(shards)} shards are missing ({missing[0]}, …)"
            )
    elif not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise UserError(f"{folder} has no weights: expected *.safetensors or pytorch_model*.bin beside config.json")
    if not any((folder / name).is_file() for name in _TOKENIZERS):
        raise UserError(f"{folder} has no tokenizer: save it there too, next to the weights")
    return folder.resolve()


def stop_ids(folder: Path) -> set[int]:
    """Return the ids at which a model stops, by its generation_config.json, else by its config.json."""
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        page: Any = json.loads(path.read_text()) if path.is_file() else {}
        stops = page.get("text_config", page).get("eos_token_id")
        if stops is not None:
            return set(stops) if isinstance(stops, list) else {stops}
    return set()


def digest(folder: Path, cache: Path | None = None) -> str:
    """Return the SHA-256 (hex) over names and contents of a model's weights, config and tokenizer files.

    With ``cache``, files whose size and modification time have not changed are not read again.
    """
    folder = Path(folder).resolve()
    files = sorted(path for path in folder.rglob("*") if _is_digested(path, folder))
    if not files:
        raise UserError(f"{folder} holds no model files to identify: expected weights, config.json and a tokenizer")
    stamp = [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    note = None
    if cache is not None:
        note = Path(cache) / "digests" / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:24]}.json"
        known = _read_note(note)
        if known.get("stamp") == stamp:
            return known["digest"]
    with ThreadPoolExecutor(max_workers=4) as pool:
        sums = list(pool.map(file_sha256, files))
    total = hashlib.sha256()
    for (name, _, _), file_sum in zip(stamp, sums, strict=True):
        total.update(f"{name}\0{file_sum}\n".encode())
    if note is not None:
        note.parent.mkdir(parents=True, exist_ok=True)
        write_whole(note, json.dumps({"stamp": stamp, "digest": total.hexdigest()}))
    return total.hexdigest()


def places(run_dir: Path) -> tuple[Path, Path]:
    """Return where a run writes its model, and where it moves it when it is whole; what an earlier try left is gone."""
    half, target = run_dir / ".model.half", run_dir / "model"
    for folder in (half, target):
        shutil.rmtree(folder, ignore_errors=True)
    return half, target


def size_bytes(folder: Path) -> int:
    """Return the bytes of the weight files in a model folder."""
    return sum(path.stat().st_size for pattern in _WEIGHTS for path in Path(folder).glob(pattern))


def _is_digested(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix in _DIGESTED and path.name not in _NOT_DIGESTED and not hidden and path.is_file()


def _read_note(note: Path) -> dict:
    try:
        return json.loads(note.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (hex) of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_whole(path: Path, text: str) -> None:
    """Write a file, whole or not at all: readers see the old one until the new one is there."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.write_text(text)
    os.replace(part, path)
