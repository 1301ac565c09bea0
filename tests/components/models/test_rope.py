"""Stretched positions: the frequencies of each paper by hand, and models that compute with them."""

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from components.config import UserError
from components.models import rope
from components.models.load import load_model, load_tokenizer
from components.models.rope import RopeConfig

D, OLD, FACTOR = 32, 1024, 4.0  # a head's dimensions and the positions of the tiny model


def frequencies(base: float) -> list[float]:
    return [base ** (-2 * pair / D) for pair in range(D // 2)]


def by_hand(name: str, base: float) -> list[float]:
    """The angle that one position turns each pair of dimensions by, after the papers' equations."""
    plain = frequencies(base)
    if name == "linear":
        return [turn / FACTOR for turn in plain]
    if name == "ntk":
        return frequencies(base * FACTOR ** (D / (D - 2)))
    mixed = []
    for pair, turn in enumerate(plain):
        rounds = OLD * turn / (2 * math.pi)  # how often this pair turns within the trained length
        if name == "llama3":  # below 1 round stretched, above 4 left, smoothly between
            kept = min(max((rounds - 1) / (4 - 1), 0.0), 1.0)
        else:  # YaRN: a ramp over the pairs between those that turn 32 times and once
            low, high = (D * math.log(OLD / (count * 2 * math.pi)) / (2 * math.log(base)) for count in (32, 1))
            low, high = max(math.floor(low), 0), min(math.ceil(high), D - 1)
            kept = 1 - min(max((pair - low) / (high - low), 0.0), 1.0)
        mixed.append(kept * turn + (1 - kept) * turn / FACTOR)
    return mixed


def stretched(model: Path, folder: Path, name: str) -> Any:
    assert rope.extend(model, folder, RopeConfig(name=name, factor=FACTOR)) == (OLD, round(OLD * FACTOR))
    return load_model(folder, "stored")


@pytest.mark.parametrize("name", ["yarn", "llama3", "linear", "ntk"])
def test_each_way_turns_as_its_paper_says(name: str, tiny_model_dir: Path, tmp_path: Path) -> None:
    model = stretched(tiny_model_dir, tmp_path / "model", name)
    base = load_model(tiny_model_dir, "stored").config.rope_parameters["rope_theta"]
    turning = model.model.rotary_emb
    assert turning.inv_freq.tolist() == pytest.approx(by_hand(name, base), rel=1e-5)
    assert turning.attention_scaling == pytest.approx(0.1 * math.log(FACTOR) + 1 if name == "yarn" else 1.0)
    assert load_tokenizer(tmp_path / "model").model_max_length == 4096
    assert model.config.max_position_embeddings == (1024 if name == "linear" else 4096)


def test_interpolated_positions_are_the_old_ones_divided(tiny_model_dir: Path, tmp_path: Path) -> None:
    old, new = load_model(tiny_model_dir, "stored"), stretched(tiny_model_dir, tmp_path / "model", "linear")
    ids = torch.randint(384, (1, 24), generator=torch.Generator().manual_seed(0))
    places = torch.arange(24)[None]
    with torch.no_grad():
        expected = old(ids, position_ids=places).logits
        torch.testing.assert_close(new(ids, position_ids=places * 4).logits, expected, rtol=1e-4, atol=1e-4)
        assert not torch.allclose(new(ids, position_ids=places).logits, expected, atol=1e-4)


def test_the_original_stays_as_it_is(tiny_model_dir: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in tiny_model_dir.iterdir()}
    stretched(tiny_model_dir, tmp_path / "model", "yarn")
    assert {path.name: path.read_bytes() for path in tiny_model_dir.iterdir()} == before
    assert (tmp_path / "model" / "model.safetensors").samefile(tiny_model_dir / "model.safetensors")  # no second copy


def test_weights_that_are_links_are_followed(tiny_model_dir: Path, tmp_path: Path) -> None:
    """As in a hub's cache, where they lead out of the folder by a relative path."""
    cached = tmp_path / "hub" / "snapshot"
    shutil.copytree(tiny_model_dir, cached)
    (tmp_path / "hub" / "blobs").mkdir()
    (cached / "model.safetensors").rename(tmp_path / "hub" / "blobs" / "abc")
    (cached / "model.safetensors").symlink_to("../blobs/abc")
    assert stretched(cached, tmp_path / "elsewhere" / "model", "yarn") is not None


def test_a_model_is_stretched_once(tiny_model_dir: Path, tmp_path: Path) -> None:
    stretched(tiny_model_dir, tmp_path / "once", "yarn")
    with pytest.raises(UserError, match="is stretched already \\(yarn\\): extend the model that it was made from"):
        rope.extend(tmp_path / "once", tmp_path / "twice", RopeConfig())


def test_positions_that_do_not_turn_cannot_be_stretched(tiny_model_dir: Path, tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tiny = GPT2Config(vocab_size=384, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(tiny).save_pretrained(tmp_path / "gpt2")
    load_tokenizer(tiny_model_dir).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UserError, match="has no rotary positions"):
        rope.extend(tmp_path / "gpt2", tmp_path / "out", RopeConfig())
