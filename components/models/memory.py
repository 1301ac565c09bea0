"""How large a model is and what it takes in memory, read from its config and weight headers alone."""

import json
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError
from components.models import nf4
from components.models.adapters import AdapterConfig, blocks_under, is_target

_GRADIENT_BYTES = 4  # per trained parameter: a step's passes are summed in float32
_ADAM_STATE_BYTES = 12  # per trained parameter: float32 copy of the weight and two float32 moments
_MOST_LIVE = 1_000_000_000  # weights that ZeRO-3 holds gathered: DeepSpeed's default stage3_max_live_parameters
_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I64": 64, "I32": 32, "I8": 8, "U8": 8, "F8_E4M3": 8, "BOOL": 8}


@dataclass(frozen=True)
class ModelShape:
    """What decides a model's memory; ``weight_bytes`` is on disk, as loaded in its own number format."""

    parameters: int
    weight_bytes: int
    layers: int
    hidden: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    max_positions: int


def read_shape(folder: Path) -> ModelShape:
    """Return the shape of the model in ``folder`` without loading a weight or importing torch.

    Scales and zero points of a quantized model are not parameters, but count in ``weight_bytes``.

    Raises:
        UserError: the folder has no safetensors weights or no decoder's config.
    """
    config = json.loads((folder / "config.json").read_text())
    config = config.get("text_config", config)
    try:
        heads = config["num_attention_heads"]
        layers, hidden, vocabulary = config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'} has no {error}: its size cannot be estimated") from error
    tensors = [tensor for path in _weight_files(folder) for tensor in _header(path).items()]
    if not tensors:
        raise UserError(f"{folder} has no safetensors weights: its size cannot be estimated")
    return ModelShape(
        parameters=sum(_count(info) for name, info in tensors if name.endswith((".weight", ".bias"))),
        weight_bytes=sum(_count(info) * _BITS[info["dtype"]] // 8 for _, info in tensors),
        layers=layers,
        hidden=hidden,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or hidden // heads,
        vocabulary=vocabulary,
        max_positions=_positions(config),
    )


def _positions(config: dict[str, Any]) -> int:
    """Return how much the model reads: where positions are scaled linearly, the config names the length before."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    linear = (rope.get("rope_type") or rope.get("type")) == "linear"
    return round(config.get("max_position_embeddings", 0) * (rope["factor"] if linear else 1))


def engine_bytes(folder: Path, bytes_per_value: int) -> int:
    """Return the bytes of the weights in an engine, which reads what is stored as a float in its own number format.

    What is quantized, to whole numbers or to 8-bit floats, stays as it is.
    """
    tensors = [info for path in _weight_files(folder) for info in _header(path).values()]
    floats = ("F64", "F32", "F16", "BF16")
    bits = [8 * bytes_per_value if info["dtype"] in floats else _BITS[info["dtype"]] for info in tensors]
    return sum(_count(info) * each // 8 for info, each in zip(tensors, bits, strict=True))


def kv_cache_bytes(shape: ModelShape, tokens: int, *, bytes_per_value: int = 2) -> int:
    """Return the bytes of keys and values of ``tokens`` cached positions."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * bytes_per_value * tokens


def lora_parameters(folder: Path, rank: int) -> int:
    """Return the parameters of a low-rank adapter of ``rank`` on every linear layer but the head."""
    return adapter_parameters(folder, AdapterConfig(rank=rank))


def adapter_parameters(folder: Path, config: AdapterConfig) -> int:
    """Return the parameters that an adapter of the model in ``folder`` trains, those of a reward's head left out."""
    headers = {name: info for path in _weight_files(folder) for name, info in _header(path).items()}
    total, rank = 0, config.start_rank
    for info in _adapted(headers, config):
        rows, columns = info["shape"]
        total += rank * (rows + columns)
        total += {"dora": rows, "adalora": rank}.get(config.name, 0)  # each row's length; each direction's weight
    if config.name == "longlora":
        total += sum(_count(info) for name, info in headers.items() if _is_embedding(name) or _is_norm(name, info))
    return total


def adapts_nothing(folder: Path, config: AdapterConfig) -> bool:
    """Return whether no matrix of the model in ``folder`` has a name that the adapter is for.

    Heads and embeddings are among them, which PEFT adapts where they are named.
    """
    headers = {name: info for path in _weight_files(folder) for name, info in _header(path).items()}
    matrices = [name for name, info in headers.items() if name.endswith(".weight") and len(info["shape"]) == 2]
    return bool(matrices) and not any(_is_adapted(name, config) for name in matrices)


def linear_parameters(folder: Path) -> int:
    """Return the parameters in linear layers but the head: what 4-bit loading makes smaller."""
    return sum(_count(info) for path in _weight_files(folder) for info in _linears(_header(path)).values())


def training_bytes(
    shape: ModelShape,
    *,
    trained: int,
    batch_tokens: int,
    bytes_per_value: int = 2,
    shards: int = 1,
    gradient_shards: int = 1,
    weight_shards: int = 1,
    nf4_parameters: int = 0,
) -> int:
    """Return an estimate of one worker's memory: weights, gradients, Adam's state, activations, logits.

    Args:
        trained: parameters that are trained.
        batch_tokens: padded tokens of one micro-batch.
        shards: workers that the optimizer's state is divided among (ZeRO 1 to 3).
        gradient_shards: workers that the gradients are divided among (ZeRO 2 and 3).
        weight_shards: workers that the weights are divided among (ZeRO 3), each gathering some while it computes.
        nf4_parameters: how many of the parameters are held in 4 bits.
    """
    weights = (shape.parameters - nf4_parameters) * bytes_per_value + int(nf4_parameters * nf4.BITS / 8)
    if weight_shards > 1:
        weights = -(-weights // weight_shards) + min(shape.parameters, _MOST_LIVE) * bytes_per_value
    optimizer = trained * _GRADIENT_BYTES // gradient_shards + trained * _ADAM_STATE_BYTES // shards
    # About 34 stored values a layer and hidden unit in a decoder block (Korthikanti et al. 2022, eq. 1,
    # without the attention matrix, which fused attention does not keep), at one byte each: 34 bytes in 16 bit.
    activations = 17 * bytes_per_value * shape.hidden * shape.layers * batch_tokens
    logits = 3 * 4 * shape.vocabulary * batch_tokens  # float32: logits, their softmax, their gradient
    return weights + optimizer + activations + logits


def _weight_files(folder: Path) -> list[Path]:
    """Return the files with the weights; some repositories hold them a second time, in another layout."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("consolidated"))


def _header(path: Path) -> dict[str, Any]:
    """Return name → {dtype, shape} of a safetensors file; its first 8 bytes say how long the header is."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return header


def _linears(header: dict[str, Any]) -> dict[str, dict[str, Any]]:
    kept_out = ("embed", "lm_head", "wte", "wpe")
    return {
        name: info
        for name, info in header.items()
        if name.endswith(".weight") and len(info["shape"]) == 2 and not any(word in name for word in kept_out)
    }


def _adapted(headers: dict[str, Any], config: AdapterConfig) -> list[dict[str, Any]]:
    """Return the layers that PEFT adapts."""
    return [info for name, info in _linears(headers).items() if _is_adapted(name, config)]


def _is_adapted(name: str, config: AdapterConfig) -> bool:
    frozen, layer = blocks_under(config.first_layer), name.removesuffix(".weight")
    is_frozen = frozen is not None and re.fullmatch(frozen, layer) is not None
    return is_target(layer, config.target_modules) and not is_frozen


def _is_embedding(name: str) -> bool:
    return name.endswith(("embed_tokens.weight", "wte.weight"))


def _is_norm(name: str, info: dict[str, Any]) -> bool:
    return len(info["shape"]) == 1 and "norm" in name.rpartition(".")[0].rpartition(".")[2]


def _count(info: dict[str, Any]) -> int:
    count = 1
    for size in info["shape"]:
        count *= size
    return count
