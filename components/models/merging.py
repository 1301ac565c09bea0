"""Merges an adapter into its base's weights, if what comes out computes the same.

Of an adapter that was trained on 4-bit weights (QLoRA) there are two merges: into the weights that it has seen, taken
out of their 4 bits, which computes what was trained; or into the original ones, which it has never seen. Both are
measured against the 4-bit base with the adapter attached, and the configuration chooses.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from components.config import UserError
from components.models.adapter_base import check_base

PROBES = (
    "What does os.path.join do?",
    "Write one sentence about the sea.",
    "[1] A stack is last in, first out. [2] A queue is first in, first out.\nWhich one serves the oldest item?",
)
PARITY_TOLERANCE = 1e-3  # nats: float32 rounding through some tens of layers stays two digits below it
MOST_LOST = 0.5  # of what the adapter changes, by KL: the rest of a merge in 16 bits would be rounding
_FLOAT32_KL = 1e-6  # nats a token: below it two models are the same in float32
Onto = Literal["original", "dequantized"]
Probes = Sequence[Sequence[int]]


@dataclass(frozen=True)
class MergeReport:
    """How far the merged model is from base + adapter, in natural-log probabilities over the probes."""

    parity: float  # largest difference in float32: 0 but for rounding
    learned_kl: float  # mean KL(attached || base) in float32, nats per token: what the adapter changes
    rounded_kl: float  # mean KL(attached || merged weights as read back, computed in float32), nats per token
    probe_tokens: int
    # With a 4-bit base: mean KL(4-bit base + adapter || merged float32), nats per token, of both merges
    quantized_kl: dict[str, float] = field(default_factory=dict)


def merge(
    base: Path,
    adapter: Path,
    target: Path,
    probes: Probes,
    *,
    dtype: str = "bfloat16",
    onto: Onto | None = None,
    max_kl: float = 0.1,
) -> MergeReport:
    """Write base + adapter as one model folder to ``target``, if the merged model computes the same.

    ``target`` should be a temporary name: a kill leaves it half-written.

    Args:
        probes: token ids of the prompts on which both are compared.
        dtype: number format of the weights that are written.
        onto: for a base that was in 4 bits while training: merge into its original weights, or into those of the 4
            bits; none: into what was trained on.
        max_kl: for such a base: how far, in nats a token, the merge may be from what was trained.

    Raises:
        UserError: the adapter does not fit the base, or was not trained on a 4-bit one and ``onto`` says so.
        RuntimeError: merging changed the log-probabilities by more than PARITY_TOLERANCE, or they are further than
            ``max_kl`` from those of the 4-bit base with the adapter, or rounding to ``dtype`` loses more than
            MOST_LOST of what the adapter changes.
    """
    from components.models.load import load_model

    assert probes, "a merge is measured on at least one probe"
    page = check_base(adapter, base)
    was_quantized = page is not None and page.quantization == "nf4"
    onto = onto or ("dequantized" if was_quantized else "original")
    if onto != "original" and not was_quantized:
        raise UserError(f"onto={onto}: {adapter} was not trained on a 4-bit base, there is nothing to de-quantize")
    trained = _log_probs(_attached(base, adapter, nf4=True), probes) if was_quantized else None
    distances: dict[str, float] = {}
    if trained is not None:  # the other merge is only measured; it is made first, so that one model is held at a time
        other: Onto = "original" if onto == "dequantized" else "dequantized"
        _, after, _, _ = _merged(base, adapter, probes, other)
        distances[other] = _mean_kl(trained, after)
    merged, after, parity, learned = _merged(base, adapter, probes, onto)
    if not parity <= PARITY_TOLERANCE:
        raise RuntimeError(
            f"merging {adapter} into {base} changes log-probabilities by up to {parity:.2e} nats "
            f"(allowed: {PARITY_TOLERANCE:.0e}): the adapter is not merged"
        )
    if trained is not None:
        distances[onto] = _mean_kl(trained, after)
        if not distances[onto] <= max_kl:
            raise RuntimeError(
                f"merged into the {onto} weights, {adapter} is {distances[onto]:.2e} nats a token from the 4-bit model "
                f"that was trained (allowed: {max_kl:.2e}): the adapter is not merged; "
                f"onto={'dequantized' if onto == 'original' else 'original'} gives {min(distances.values()):.2e}"
            )
    _write(merged, base, target, dtype)
    del merged
    rounded = _mean_kl(after, _log_probs(load_model(target, "float32"), probes))
    if not rounded <= max(MOST_LOST * learned, _FLOAT32_KL):
        shutil.rmtree(target)
        raise RuntimeError(
            f"written in {dtype}, {base} with {adapter} is {rounded:.2e} nats a token from what it is in float32, and "
            f"the adapter changes no more than {learned:.2e}: the adapter is not merged; set dtype=float32"
        )
    return MergeReport(parity, learned, rounded, sum(len(ids) for ids in probes), distances)


def check_on(base: Path, quantized: Path, adapter: Path, probes: Probes, max_kl: float) -> float:
    """Return mean KL(base + adapter || quantized base + adapter), nats per token, both attached.

    A server may keep adapters apart from a quantized base: this is how far that is from what was trained. An adapter
    of a 4-bit base (QLoRA) was trained on that one: it, not the true base, is what is compared with.

    Raises:
        UserError: the adapter was trained on another base, or cannot be put on the quantized one.
        RuntimeError: they are further apart than ``max_kl``.
    """
    from peft import PeftModel

    from components.models.load import load_model

    page = check_base(adapter, base)
    before = _log_probs(_attached(base, adapter, nf4=page is not None and page.quantization == "nf4"), probes)
    model: Any = load_model(quantized, "stored")
    try:
        model = PeftModel.from_pretrained(model, adapter).eval()
    except (RuntimeError, ValueError, KeyError) as error:
        raise UserError(f"the adapter {adapter} does not fit {quantized}: {str(error).splitlines()[0]}") from error
    distance = _mean_kl(before, _log_probs(model, probes))
    if not distance <= max_kl:
        raise RuntimeError(
            f"on {quantized}, {adapter} is {distance:.2e} nats a token from what it is on {base} "
            f"(allowed: {max_kl:.2e}): serve it merged, or quantize the base less"
        )
    return distance


def move(made: Path, target: Path) -> None:
    """Put a finished folder where ``target`` was."""
    shutil.rmtree(target, ignore_errors=True)
    os.replace(made, target)


def _merged(base: Path, adapter: Path, probes: Probes, onto: Onto) -> tuple[Any, list[Any], float, float]:
    """Return the merged float32 model, its log-probabilities, how far they are from the attached ones, and those from
    the base's."""
    attached = _attached(base, adapter, dequantize=onto == "dequantized")
    before = _log_probs(attached, probes)
    with attached.disable_adapter():
        learned = _mean_kl(before, _log_probs(attached, probes))
    merged = attached.merge_and_unload()
    after = _log_probs(merged, probes)
    return merged, after, max(float((b - a).abs().max()) for b, a in zip(before, after, strict=True)), learned


def _attached(base: Path, adapter: Path, *, nf4: bool = False, dequantize: bool = False) -> Any:
    """Return base + adapter in float32: the true base, the 4-bit one, or what that one's weights stand for."""
    import torch
    from peft import PeftModel

    from components.models.load import load_model
    from components.models.nf4 import dequantized

    def fit(load: Callable[[], Any]) -> Any:
        try:
            return load()
        except (RuntimeError, ValueError, KeyError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(
                f"the adapter {adapter} does not fit the model {base}: {str(error).splitlines()[0]}"
            ) from error

    if dequantize:
        model = dequantized(load_model(base, "float32", nf4=True), torch.float32)
        return fit(lambda: PeftModel.from_pretrained(model, adapter).eval())
    return fit(lambda: load_model(base, "float32", adapter, nf4=nf4))


def _log_probs(model: Any, probes: Probes) -> list[Any]:
    """Return float32 log-probabilities [T, V] of the next token at each position of each sequence."""
    import torch

    found = []
    with torch.inference_mode():
        for ids in probes:
            row = torch.tensor([list(ids)], device=model.device)
            found.append(model(input_ids=row, use_cache=False).logits[0].float().log_softmax(-1).cpu())
    return found


def _mean_kl(p: list[Any], q: list[Any]) -> float:
    """Return the mean over all positions of KL(p || q), nats."""
    import torch

    return float(torch.cat([(a.exp() * (a - b)).sum(-1) for a, b in zip(p, q, strict=True)]).mean())


def _write(model: Any, base: Path, target: Path, dtype: str) -> None:
    """Save weights in their number format, config and the base's tokenizer files to ``target``."""
    import torch

    from components.models.load import load_tokenizer

    shutil.rmtree(target, ignore_errors=True)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(target)
    load_tokenizer(base).save_pretrained(target)
