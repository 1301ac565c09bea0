"""Grouped-query attention out of multi-head attention: heads share keys and values, so the KV cache is smaller.

Shapes: K key-value heads before, G after, H head dimension, D hidden dimension.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from components.config import UserError
from components.models.folder import check_folder

if TYPE_CHECKING:
    import torch


def group(model: Path, target: Path, kv_heads: int) -> tuple[int, int]:
    """Write the model with ``kv_heads`` key-value heads to ``target``; return how many it had and has.

    Each new head is the mean of those that it replaces, which lost least of the ways tried in the source; what is lost
    comes back by training on. Query heads stay, and neighbours shared before still share.

    Source: Ainslie et al. 2023, GQA (https://arxiv.org/abs/2305.13245), section 2.1.

    Raises:
        UserError: the heads cannot be shared out so, or the layers do not project keys and values by themselves.
    """
    import torch

    from components.models.load import load_model, load_tokenizer

    before = check(model, kv_heads)
    loaded = load_model(model, "stored")
    config = loaded.config
    found = [
        module
        for name, module in loaded.named_modules()
        if name.endswith((".k_proj", ".v_proj")) and isinstance(module, torch.nn.Linear)
    ]
    if len(found) != 2 * config.num_hidden_layers:
        raise UserError(f"{model} has no k_proj and v_proj in each of its {config.num_hidden_layers} layers")
    with torch.no_grad():
        for module in found:
            module.weight = torch.nn.Parameter(pool(module.weight, before, kv_heads))
            if module.bias is not None:
                module.bias = torch.nn.Parameter(pool(module.bias, before, kv_heads))
    config.num_key_value_heads = kv_heads
    loaded.save_pretrained(target)
    load_tokenizer(model).save_pretrained(target)
    return before, kv_heads


def check(model: Path, after: int) -> int:
    """Return how many key-value heads a model has, by its config.json.

    Raises:
        UserError: they cannot be pooled into so many, or the model is quantized, or does not tell them from its others.
    """
    config = json.loads((check_folder(model) / "config.json").read_text())
    if "quantization_config" in config:
        raise UserError(f"{model} is quantized: pool the heads of the model that it was made from, then quantize that")
    before = config.get("num_key_value_heads")
    if before is None:
        raise UserError(
            f"{model} has no num_key_value_heads in its config.json: its heads are not known to be poolable"
        )
    possible = [count for count in range(1, before) if before % count == 0]
    if after not in possible:
        raise UserError(
            f"kv_heads={after}: {model} has {before} key-value heads, which pool into {possible or 'no fewer'}"
        )
    return before


def pool(weight_KHxD: "torch.Tensor", before: int, after: int) -> "torch.Tensor":
    """Return the mean over each run of K/G neighbouring heads, [G·H, …] from [K·H, …], computed in float32."""
    rest = weight_KHxD.shape[1:]
    head_dim = weight_KHxD.shape[0] // before
    grouped = weight_KHxD.float().reshape(after, before // after, head_dim, *rest)
    return grouped.mean(dim=1).reshape(after * head_dim, *rest).to(weight_KHxD.dtype)
