"""Longer contexts for models with rotary positions: their frequencies are stretched, their weights stay as they are."""

import os
import shutil
from pathlib import Path
from typing import Any, Literal

from components.config import Config, Field, UserError
from components.models.folder import check_folder


class RopeConfig(Config):
    """How rotary positions are stretched.

    Sources, with L the positions that a model was trained on, s the factor, b the base, d a head's rotary dimensions:
    linear: Chen et al. 2023 (https://arxiv.org/abs/2306.15595), positions divided by s. ntk: Peng et al. 2023
    (https://arxiv.org/abs/2309.00071) section 3.1, b becomes b·s^(d/(d-2)). yarn: section 3.2 and 3.4 there, slow
    frequencies interpolated, fast ones left, logits scaled by a temperature. llama3: Grattafiori et al. 2024
    (https://arxiv.org/abs/2407.21783). Dynamic scaling is not here: vLLM keeps keys that were turned by frequencies
    which would have to change as a text grows.
    """

    name: Literal["yarn", "llama3", "linear", "ntk"] = Field(
        "yarn", description="which frequencies are stretched: linear all alike, the others the slow ones more"
    )
    factor: float = Field(4.0, gt=1, description="new length by old length")
    trained_positions: int | None = Field(
        None, ge=1, description="length that the model was trained on; none: what its config.json says"
    )


def extend(model: Path, target: Path, config: RopeConfig) -> tuple[int, int]:
    """Write the model with stretched positions to ``target``; return the old and the new length in tokens.

    Transformers and vLLM read what is written; weight files are shared with the original where the disk allows it.

    Raises:
        UserError: the model has no rotary positions, or they are stretched already.
    """
    from transformers import AutoConfig, AutoTokenizer

    described = AutoConfig.from_pretrained(check_folder(model))
    known: dict[str, Any] | None = getattr(described, "rope_parameters", None)
    if not known or "rope_theta" not in known:
        raise UserError(
            f"{model} has no rotary positions of one kind for all its layers, which is what can be stretched"
        )
    if known.get("rope_type", "default") != "default":
        raise UserError(f"{model} is stretched already ({known['rope_type']}): extend the model that it was made from")
    old = config.trained_positions or described.max_position_embeddings
    new = round(old * config.factor)
    described.rope_parameters = known | _parameters(known, config, old, _head_dim(described))
    # Of linear ones, engines multiply what stands here by the factor.
    described.max_position_embeddings = old if config.name == "linear" else new
    shutil.copytree(model, target, copy_function=_share, ignore=shutil.ignore_patterns("config.json", "lineage.json"))
    described.save_pretrained(target)
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.model_max_length = new
    tokenizer.save_pretrained(target)
    return old, new


def _parameters(known: dict[str, Any], config: RopeConfig, old: int, head_dim: int) -> dict[str, Any]:
    factor = config.factor
    if config.name == "ntk":
        rotary = int(head_dim * known.get("partial_rotary_factor", 1.0))
        return {"rope_theta": known["rope_theta"] * factor ** (rotary / (rotary - 2))}
    changed: dict[str, Any] = {"rope_type": config.name, "factor": factor}
    if config.name in ("yarn", "llama3"):
        changed["original_max_position_embeddings"] = old
    if config.name == "llama3":
        changed |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    return changed


def _head_dim(described: Any) -> int:
    return getattr(described, "head_dim", None) or described.hidden_size // described.num_attention_heads


def _share(source: str, target: str) -> None:
    """Link large files, which nobody writes to again, and copy where the disk cannot."""
    if not source.endswith((".safetensors", ".bin")):
        shutil.copy2(source, target)
        return
    try:
        os.link(os.path.realpath(source), target)  # a hub's cache holds links, whose own links would lead nowhere
    except OSError:
        shutil.copy2(source, target)
