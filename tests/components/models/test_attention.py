"""Pooled key-value heads: means by hand, and a model whose heads were equal computes what it did."""

import json
from pathlib import Path

import pytest
import torch

from components.config import UserError
from components.models import attention, memory
from components.models.load import load_model
from tests.components.models.heads import with_heads_twice


def test_neighbours_are_averaged() -> None:
    weight = torch.arange(4 * 2 * 3, dtype=torch.float32).reshape(8, 3)  # four heads of two dimensions
    heads = [weight[2 * head : 2 * head + 2] for head in range(4)]
    expected = torch.cat([(heads[0] + heads[1]) / 2, (heads[2] + heads[3]) / 2])
    torch.testing.assert_close(attention.pool(weight, 4, 2), expected)
    torch.testing.assert_close(attention.pool(weight[:, 0], 4, 1), sum(head[:, 0] for head in heads) / 4)
    assert attention.pool(weight.bfloat16(), 4, 2).dtype == torch.bfloat16


@pytest.fixture
def two_heads(tiny_model_dir: Path, tmp_path: Path) -> Path:
    return with_heads_twice(tiny_model_dir, tmp_path / "two")


def test_equal_heads_become_one_without_loss(two_heads: Path, tiny_model_dir: Path, tmp_path: Path) -> None:
    assert attention.group(two_heads, tmp_path / "one", 1) == (2, 1)
    ids = torch.randint(384, (2, 30), generator=torch.Generator().manual_seed(0))
    pooled = load_model(tmp_path / "one", "stored")
    with torch.no_grad():
        expected = load_model(tiny_model_dir, "stored")(ids).logits
        torch.testing.assert_close(pooled(ids).logits, expected, rtol=1e-5, atol=1e-5)
        cached = pooled(ids, use_cache=True).past_key_values
    assert cached.layers[0].keys.shape == (2, 1, 30, 32)
    cache = [memory.kv_cache_bytes(memory.read_shape(folder), 1) for folder in (two_heads, tmp_path / "one")]
    assert cache[0] == 2 * cache[1]


@pytest.mark.parametrize("heads", [2, 3, 4])
def test_heads_that_cannot_be_pooled_are_refused(heads: int, two_heads: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"kv_heads={heads}: .* has 2 key-value heads, which pool into \\[1\\]"):
        attention.group(two_heads, tmp_path / "out", heads)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"quantization_config": {"quant_method": "compressed-tensors"}}, "is quantized: pool the heads of the model"),
        ({"num_key_value_heads": None}, "has no num_key_value_heads"),
    ],
)
def test_models_that_are_not_known_to_pool_are_refused(
    change: dict, says: str, two_heads: Path, tmp_path: Path
) -> None:
    page = two_heads / "config.json"
    page.write_text(json.dumps(json.loads(page.read_text()) | change))
    with pytest.raises(UserError, match=says):
        attention.group(two_heads, tmp_path / "out", 1)
