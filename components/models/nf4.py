"""A model with its linear layers in 4-bit NormalFloat, doubly quantized, on a CPU or a GPU, by bitsandbytes.

Source: QLoRA, Dettmers et al. 2023 (arXiv 2305.14314), section 3: 4 bits a weight, one 8-bit scale for 64 weights,
one 32-bit scale for 256 of those: 4.127 bits a weight.
"""

from typing import TYPE_CHECKING, Any

from components.config import UserError

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig

BITS = 4 + 8 / 64 + 32 / (64 * 256)
HEADS = ("lm_head", "score")  # stay as they are


def check_installed() -> None:
    """Refuse where there is no bitsandbytes.

    Raises:
        UserError: it is not installed.
    """
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise UserError("adapter.name=qlora needs bitsandbytes, which is not installed here: pip install bitsandbytes")


def loading(dtype: "torch.dtype") -> dict[str, Any]:
    """Return what ``from_pretrained`` takes to quantize while it loads; products are computed in ``dtype``."""
    import torch

    from components.models.load import has_gpu

    check_installed()
    device = torch.cuda.current_device() if has_gpu() else "cpu"
    return {"quantization_config": _config(dtype), "device_map": {"": device}}


def _config(dtype: "torch.dtype") -> "BitsAndBytesConfig":
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=list(HEADS),
    )


def keep_exact(model: Any) -> Any:
    """Return the model, kept from repacking its weights for bfloat16 when it is evaluated on a CPU.

    bitsandbytes (0.50) does that at the first evaluation on a CPU with AVX-512 BF16: results are then rounded to
    bfloat16 whatever the model's number format, and a training that goes on after it gets no gradient through
    those layers, without an error.
    """
    for layer in _layers(model):
        layer.support_avx512bf16_for_cpu = False
    return model


def dequantized(model: Any, dtype: "torch.dtype") -> Any:
    """Return the model with plain linear layers again, of the values that its 4-bit weights stand for."""
    import torch
    from bitsandbytes.functional import dequantize_4bit

    for name, layer in list(model.named_modules()):
        if type(layer).__name__ != "Linear4bit":
            continue
        plain = torch.nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, dtype=dtype)
        weight = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
        plain.weight = torch.nn.Parameter(weight.to(dtype), requires_grad=False)
        if layer.bias is not None:
            plain.bias = torch.nn.Parameter(layer.bias.detach().to(dtype), requires_grad=False)
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, plain)
    for mark in ("is_loaded_in_4bit", "is_4bit_serializable", "is_quantized", "quantization_method", "hf_quantizer"):
        if mark in vars(model):
            delattr(model, mark)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def _layers(model: Any) -> list[Any]:
    return [layer for layer in model.modules() if type(layer).__name__ == "Linear4bit"]
