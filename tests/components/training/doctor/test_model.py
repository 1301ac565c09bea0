"""A model's files: whether it would stop, how much it reads, whether the adapter has anything to train."""

import json
import shutil

import pytest

from components.config import UserError
from components.data.chat import ChatTemplate
from components.models.adapters import AdapterConfig
from components.models.folder import stop_ids
from components.training.doctor import model
from components.training.doctor.findings import State


@pytest.fixture
def folder(tiny_model_dir, tmp_path):
    return shutil.copytree(tiny_model_dir, tmp_path / "model")


def _look(folder, adapter=None) -> dict:
    found = model.examine(folder, ChatTemplate.from_folder(folder), adapter or AdapterConfig(name="none"))
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
    assert _look(folder)["turn end"].state is State.LOOK  # the tokenizer's own end is the turn's, which vLLM heeds
    page = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**page, "eos_token": "<|endoftext|>"}))
    found = _look(folder)["turn end"]
    assert found.state is State.PROBLEM
    assert "answers end in <|im_end|>, and the model stops at <|endoftext|>" in found.text
    assert "add 2 to eos_token_id" in found.text


def test_without_a_generation_config_the_models_own_end_counts(folder):
    (folder / "generation_config.json").unlink()
    assert _look(folder)["turn end"].state is State.FINE
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    assert "for transformers it is nothing" in _look(folder)["turn end"].text
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": 0, "text_config": {"eos_token_id": 2}}))
    assert stop_ids(folder) == {2}


def test_rows_longer_than_the_model_reads_are_a_problem(folder):
    assert model.context(folder, 1024).state is State.FINE
    found = model.context(folder, 1025)
    assert found.state is State.PROBLEM and "reads 1024 tokens, and the longest row has 1025" in found.text
    config = json.loads((folder / "config.json").read_text())
    rope = {"rope_theta": 10_000.0, "rope_type": "linear", "factor": 2.0}
    (folder / "config.json").write_text(json.dumps({**config, "rope_parameters": rope}))
    assert model.context(folder, 2048).state is State.FINE  # engines multiply the length in the config
    assert model.context(folder, 2049).state is State.PROBLEM


def test_tokens_that_the_embedding_does_not_have_are_a_problem(folder):
    tokenizer = ChatTemplate.from_folder(folder).tokenizer
    tokenizer.add_tokens([f"<new{number}>" for number in range(200)])
    tokenizer.save_pretrained(folder)
    found = _look(folder)["vocabulary"]
    assert found.state is State.PROBLEM and f"has {len(tokenizer)} tokens, and the model 384" in found.text


def test_an_adapter_of_no_layer_is_a_problem(folder):
    # q and o: 64 x 64; k and v: 32 x 64; gate, up and down: 64 x 128: each rank x (rows + columns), two layers
    weights = 2 * 4 * (2 * (64 + 64) + 2 * (32 + 64) + 3 * (64 + 128))
    found = _look(folder, AdapterConfig(name="lora", rank=4))["adapter"]
    assert found.state is State.FINE and f"lora of {weights / 1e6:.2f} M weights" in found.text
    found = _look(folder, AdapterConfig(name="lora", target_modules=("nowhere",)))["adapter"]
    assert found.state is State.PROBLEM and "nowhere" in found.text


def test_an_adapter_above_the_last_block_is_refused(folder):
    with pytest.raises(UserError, match="the model has 2 blocks"):
        _look(folder, AdapterConfig(name="lora", first_layer=2))


def test_a_folder_without_weights_is_refused(folder):
    for path in folder.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(UserError, match="no safetensors weights"):
        _look(folder)
