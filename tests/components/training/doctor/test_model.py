"""A model's files: whether it would stop, how much it reads, whether the adapter has anything to train."""

import json
import shutil

import pytest

from components.config import UserError
from components.data.chat import ChatTemplate
from components.models.adapters import AdapterConfig
from components.training.doctor import model
from components.training.doctor.findings import State


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def _look(folder, adapter=None, longest=512) -> dict:
    found = model.examine(
        folder, ChatTemplate.from_folder(folder), adapter or AdapterConfig(name="none"), longest=longest
    )
    return {one.check: one for one in found}


def _stop_at(folder, ids) -> None:
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.is_file() else {}), "eos_token_id": ids}))


def test_the_tests_model_is_fine(folder):
    assert {one.state for one in _look(folder).values()} == {State.FINE}
    assert "<|im_end|>, which ends answers, too" in _look(folder)["padding"].text


@pytest.mark.parametrize("ids", [2, [0, 2]])
def test_generation_that_stops_at_the_turn_end_is_fine(folder, ids):
    _stop_at(folder, ids)
    assert _look(folder)["turn end"].state is State.FINE


@pytest.mark.parametrize("ids", [0, [0, 1]])
def test_generation_that_would_talk_on_is_a_problem_with_its_cure(folder, ids):
    _stop_at(folder, ids)
    found = _look(folder)["turn end"]
    assert found.state is State.PROBLEM
    assert "answers end in <|im_end|>, and the model stops at <|endoftext|>" in found.text
    assert "add 2 to eos_token_id" in found.text


def test_without_a_generation_config_the_models_own_end_counts(folder):
    (folder / "generation_config.json").unlink()
    assert _look(folder)["turn end"].state is State.FINE
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    assert "stops at nothing" in _look(folder)["turn end"].text


def test_rows_longer_than_the_model_reads_are_a_problem(folder):
    assert _look(folder, longest=1024)["context"].state is State.FINE
    found = _look(folder, longest=1025)["context"]
    assert found.state is State.PROBLEM and "reads 1024 tokens, and rows may have 1025" in found.text


def test_an_adapter_of_no_layer_is_a_problem(folder):
    # q and o: 64 x 64; k and v: 32 x 64; gate, up and down: 64 x 128: each rank x (rows + columns), two layers
    weights = 2 * 4 * (2 * (64 + 64) + 2 * (32 + 64) + 3 * (64 + 128))
    found = _look(folder, AdapterConfig(name="lora", rank=4))["adapter"]
    assert found.state is State.FINE and f"lora of {weights / 1e6:.2f} M weights" in found.text
    found = _look(folder, AdapterConfig(name="lora", target_modules=("nowhere",)))["adapter"]
    assert found.state is State.PROBLEM and "nowhere" in found.text


def test_a_folder_without_weights_is_refused(folder):
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(UserError, match="no safetensors weights"):
        _look(folder)
