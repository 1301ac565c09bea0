"""Loads models and tokenizers in the number format that this machine computes fastest."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.config import UserError
from components.models import nf4 as _nf4
from components.models.adapter_base import check_base
from components.models.folder import check_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

DType = Literal["auto", "stored", "served", "bfloat16", "float32"]


def cpu_dtype() -> "torch.dtype":
    """Return bfloat16 where the CPU multiplies it natively (AVX-512 BF16 or AMX), else float32."""
    import torch

    return torch.bfloat16 if _multiplies_bfloat16() else torch.float32


def has_gpu() -> bool:
    """Return whether this process may compute on a GPU: one is there, and a Ray worker was given it.

    Ray lets a worker that asked for none see all of them, where others compute.
    """
    import torch

    if not torch.cuda.is_available():
        return False
    import ray

    if not ray.is_initialized() or ray.get_runtime_context().worker.mode != ray.WORKER_MODE:
        return True
    return bool(ray.get_runtime_context().get_accelerator_ids().get("GPU"))


def torch_device() -> str:
    """Return where this process computes, as torch names it."""
    return "cuda" if has_gpu() else "cpu"


def torch_dtype(dtype: Literal["auto", "bfloat16", "float32"] = "auto") -> "torch.dtype":
    """Return the torch type of a config's ``dtype``; ``auto`` is bfloat16 on a GPU and ``cpu_dtype()`` without one."""
    import torch

    if dtype != "auto":
        return {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype]
    return torch.bfloat16 if has_gpu() else cpu_dtype()


def engine_dtype(dtype: Literal["auto", "bfloat16", "float32"], on_gpu: bool) -> str:
    """Return what vLLM is told of the number format: ``auto`` on a GPU is its own choice, on a CPU the fastest one.

    A CPU without AVX-512 BF16 or AMX computes bfloat16 several times slower than float32.
    """
    if dtype != "auto" or on_gpu:
        return dtype
    return "bfloat16" if _multiplies_bfloat16() else "float32"


def load_model(
    folder: str | Path, dtype: DType = "auto", adapter: str | Path | None = None, *, nf4: bool | None = None
) -> "PreTrainedModel":
    """Return the causal language model in ``folder``, on the CPU, in evaluation mode, ``adapter`` attached.

    Args:
        dtype: ``stored`` keeps the number format that the folder has; ``served`` does, too, but for bfloat16 on a CPU
            that does not multiply it, which our engines serve in float32; ``auto`` takes this machine's fastest.
        nf4: whether its linear layers are 4-bit ones (such a model is on the GPU where there is one); none: as they
            were when the adapter was trained.

    Raises:
        UserError: either folder is not what it should be, or the adapter was trained on another model.
    """
    from transformers import AutoModelForCausalLM

    if dtype == "served":
        dtype = _served_dtype(Path(folder))
    number_format = "auto" if dtype == "stored" else torch_dtype(dtype)
    page = check_base(Path(adapter), check_folder(Path(folder))) if adapter is not None else None
    if nf4 is None:
        nf4 = page is not None and page.quantization == "nf4"
    if nf4 and number_format == "auto":
        raise UserError("4-bit weights are computed with in a number format of your choice: give a dtype, not 'stored'")
    quantized = _nf4.loading(number_format) if nf4 else {}
    model: Any = AutoModelForCausalLM.from_pretrained(check_folder(Path(folder)), dtype=number_format, **quantized)
    if nf4:
        _nf4.keep_exact(model)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, adapter)
    return model.eval()


def _served_dtype(folder: Path) -> Literal["stored", "float32"]:
    import torch
    from transformers import AutoConfig

    stored = AutoConfig.from_pretrained(check_folder(folder)).dtype
    is_slow = stored == torch.bfloat16 and torch_dtype() == torch.float32
    return "float32" if is_slow else "stored"


def load_tokenizer(folder: str | Path) -> "PreTrainedTokenizerBase":
    """Return the tokenizer in ``folder``, padding on the right; without a pad token it pads with its end token.

    Our masks come from lengths, never from comparing ids to the pad id, so that is safe here.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def lead_ids(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    """Return what a tokenizer puts before a text: its begin token, or nothing."""
    begin, plain = tokenizer.bos_token_id, tokenizer.encode("a", add_special_tokens=False)
    adds = begin is not None and tokenizer.encode("a")[:1] == [begin] != plain[:1]
    return [begin] if adds else []


def set_threads(threads: int | None = None) -> int:
    """Let torch use ``threads``, or what OMP_NUM_THREADS (Ray sets it) or the CPU mask allows; return the number."""
    import torch

    if threads is None:
        threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    torch.set_num_threads(max(1, threads))
    return torch.get_num_threads()


def _multiplies_bfloat16() -> bool:
    return _cpu_has("avx512_bf16") or _cpu_has("amx_bf16")


def _cpu_has(flag: str) -> bool:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            flags = next((line for line in lines if line.startswith("flags")), "")
    except FileNotFoundError:
        return False
    return flag in flags.split()
