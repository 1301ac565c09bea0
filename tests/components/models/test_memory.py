"""Sizes read from headers, against the loaded model."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from components.config import UserError
from components.models.load import load_model
from components.models.memory import lora_parameters, read_shape, training_bytes


def test_the_headers_say_what_the_loaded_model_says(tiny_model_dir: Path) -> None:
    model = load_model(tiny_model_dir, "float32")
    shape = read_shape(tiny_model_dir)
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert shape.weight_bytes == 4 * shape.parameters
    assert (shape.layers, shape.hidden, shape.kv_heads, shape.head_dim, shape.vocabulary) == (2, 64, 1, 32, 384)


def test_adapter_size_is_that_of_peft(tiny_model_dir: Path) -> None:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    adapted = get_peft_model(load_model(tiny_model_dir, "float32"), config)
    assert lora_parameters(tiny_model_dir, 4) == adapted.get_nb_trainable_parameters()[0]


def test_training_memory_grows_with_what_is_trained_and_shrinks_with_shards(tiny_model_dir: Path) -> None:
    shape = read_shape(tiny_model_dir)
    adapter = training_bytes(shape, trained=1000, batch_tokens=64)
    full = training_bytes(shape, trained=shape.parameters, batch_tokens=64)
    # gradient, weight and two moments in float32: 16 bytes for each further trained parameter
    assert full - adapter == 16 * (shape.parameters - 1000)
    stage_1 = training_bytes(shape, trained=shape.parameters, batch_tokens=64, shards=2)
    stage_2 = training_bytes(shape, trained=shape.parameters, batch_tokens=64, shards=2, gradient_shards=2)
    assert (full - stage_1, stage_1 - stage_2) == (6 * shape.parameters, 2 * shape.parameters)  # half of 12 bytes, of 4


def test_zero_3_holds_its_part_of_the_weights_and_what_it_gathers(tiny_model_dir: Path) -> None:
    shape = replace(read_shape(tiny_model_dir), parameters=7_000_000_000)
    alone = training_bytes(shape, trained=0, batch_tokens=64)
    # of 14 GB of weights a quarter, and the thousand million that DeepSpeed may gather
    assert (
        training_bytes(shape, trained=0, batch_tokens=64, weight_shards=4)
        == alone - 14_000_000_000 * 3 // 4 + 2 * 10**9
    )


def test_what_is_no_decoder_is_refused(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no safetensors"):
        read_shape(folder)
    (folder / "config.json").write_text(json.dumps({"hidden_size": 3}))
    with pytest.raises(UserError, match="num_attention_heads"):
        read_shape(folder)
