"""8-bit integer weights and activations: the format that CPUs (oneDNN, AMX) and most GPUs serve fastest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config import UserError
from components.models.load import load_model, load_tokenizer
from components.quantization.smooth import smooth

_JOINED = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # what vLLM makes one layer of


def w8a8_int8(
    source: Path, target: Path, texts: Sequence[Sequence[int]], *, smoothing: float, keep: Sequence[str] = ()
) -> None:
    """Write the model in ``source`` to the new folder ``target`` with every linear layer but the head in int8.

    Weights are rounded to nearest, symmetric, with one scale per output channel; activations are rounded
    when served, symmetric, with one scale per token. Which of their channels have outliers is measured on
    ``texts`` (token ids), and the weights take these over with strength ``smoothing``. Embeddings, the head and
    the layers whose names end in one of ``keep`` keep their values. The format is compressed-tensors'
    int-quantized, which vLLM and transformers read.
    Tokenizer, chat template and generation settings come along.

    Raises:
        UserError: the model has no layer that ``keep`` names, or it names some of those only that engines join.
    """
    from compressed_tensors.compressors import ModelCompressor
    from compressed_tensors.quantization import QuantizationConfig, apply_quantization_config, preset_name_to_scheme

    model: Any = load_model(source, "stored")
    if smoothing:
        stored = model.dtype
        smooth(model.float(), texts, smoothing)
        model = model.to(stored)
    head = model.get_output_embeddings()
    kept = [name for name, module in model.named_modules() if module is head] + _named(model, keep)
    scheme = preset_name_to_scheme("W8A8", targets=["Linear"])
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=kept))
    for module in model.modules():
        if getattr(module, "quantization_scheme", None) is not None:
            _set_scales(module)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.compress_model(model)
    model.save_pretrained(target)
    compressor.update_config(str(target))
    load_tokenizer(source).save_pretrained(target)


def _named(model: Any, ends: Sequence[str]) -> list[str]:
    """Return the names of the linear layers that end so. Raises UserError as ``w8a8_int8``."""
    import torch

    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    for end in ends:
        if not any(name.endswith(f".{end}") for name in linear):
            known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear}))
            raise UserError(f"method.keep names '{end}', and no linear layer's name ends so: they end in {known}")
    kept = [name for name in linear if any(name.endswith(f".{end}") for end in ends)]
    _check_joined(kept, linear, ends)
    return kept


def _check_joined(kept: Sequence[str], linear: Sequence[str], ends: Sequence[str]) -> None:
    """Refuse to keep a part of what engines compute as one layer, which has one format: they could not load it."""
    for name in kept:
        block, _, last = name.rpartition(".")
        joined = next((group for group in _JOINED if last in group), ())
        missing = [other for other in joined if f"{block}.{other}" in linear and f"{block}.{other}" not in kept]
        if missing:
            end = next(end for end in ends if name.endswith(f".{end}"))
            more = [end.removesuffix(last) + other for other in missing]
            raise UserError(
                f"method.keep names '{end}' without {' and '.join(more)}, and engines compute these as one layer, in "
                f"one format: write method.keep=[{','.join([*ends, *more])}], or leave '{end}' out"
            )


def _set_scales(module: Any) -> None:
    """Give each output channel the scale that makes its largest magnitude the largest code.

    In float32, whatever the weights' type: dividing in bfloat16, which has 8 bits itself, would round twice.
    """
    import torch
    from compressed_tensors.quantization.utils import calculate_qparams

    weight = module.weight.data.float()
    scale, _ = calculate_qparams(
        weight.amin(1, keepdim=True), weight.amax(1, keepdim=True), module.quantization_scheme.weights
    )
    module.weight_scale = torch.nn.Parameter(scale, requires_grad=False)
