"""What quantization cost, measured on the saved artefact, and the limits that it must keep.

Shapes: T tokens of one text, V vocabulary. Logarithms are natural; a KL is a mean over tokens, in nats.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from components.config import Config, Field
from components.progress import progress

if TYPE_CHECKING:
    import torch

_CHUNK_TOKENS = 256


class GateConfig(Config):
    """How much worse than the original a quantized model may be."""

    max_perplexity_increase: float = Field(0.10, ge=0, description="largest relative increase of perplexity")
    max_kl: float = Field(0.10, ge=0, description="largest mean KL(original ‖ quantized), nats per token")


@dataclass(frozen=True)
class Text:
    """Token ids of a prompt and its answer, which starts at ``answer_start``."""

    ids: Sequence[int]
    answer_start: int


@dataclass(frozen=True)
class Measurement:
    """A quantized model against its original: its size, and figures over all tokens but each text's first."""

    perplexity: float
    perplexity_original: float
    kl: float
    kl_p99: float
    top1_agreement: float
    answer_kl: float  # over the answers' tokens only
    answer_top1_agreement: float
    tokens: int
    bytes: int  # of the weight files
    bytes_original: int
    ratio: float  # bytes / bytes_original

    def metrics(self) -> dict[str, float]:
        """Return the figures by name."""
        return {name: float(value) for name, value in asdict(self).items()}


def measure(original: Path, quantized: Path, texts: Sequence[Text]) -> Measurement:
    """Compare the two models' predictions of the same texts, each in the number format that it is served in here.

    The quantized model computes as it will when served: its saved codes and scales, and activations that
    are rounded for every token, which transformers' compressed-tensors layers do in their forward pass.
    On 13,900 tokens its perplexity lay 0.9 % from that of vLLM's CPU engine; with vLLM's own oneDNN
    kernels put into transformers it lay 1.1 % from it, so that is the rounding of the rest of the model.
    """
    import torch

    from components.models.folder import size_bytes
    from components.models.load import load_model, set_threads

    assert texts, "a model is measured on at least one text"
    set_threads()
    models = load_model(original, "served"), load_model(quantized, "served")
    rows, in_answer = [], []
    for done, text in enumerate(texts, start=1):
        ids_1T = torch.tensor([list(text.ids)])
        with torch.inference_mode():
            logits = [model(input_ids=ids_1T, use_cache=False).logits[0, :-1] for model in models]
            rows.append(_compare(logits[0], logits[1], ids_1T[0, 1:]))
        in_answer.append(torch.arange(1, len(text.ids)) >= text.answer_start)
        progress(done, len(texts), "texts")
    logprob_original, logprob, kl, agrees = torch.cat(rows, dim=1)
    answer = torch.cat(in_answer)
    size, size_original = size_bytes(quantized), size_bytes(original)
    return Measurement(
        perplexity=float((-logprob.mean()).exp()),
        perplexity_original=float((-logprob_original.mean()).exp()),
        kl=float(kl.mean()),
        kl_p99=float(kl.quantile(0.99)),
        top1_agreement=float(agrees.mean()),
        answer_kl=float(kl[answer].mean()),
        answer_top1_agreement=float(agrees[answer].mean()),
        tokens=len(kl),
        bytes=size,
        bytes_original=size_original,
        ratio=size / size_original,
    )


def check(measured: Measurement, limits: GateConfig) -> None:
    """Let a measurement within the limits pass; a figure that is not a number is outside of them.

    Raises:
        RuntimeError: it is not within the limits, with the figures and what to change.
    """
    increase = measured.perplexity / measured.perplexity_original - 1
    problems = []
    if not increase <= limits.max_perplexity_increase:
        problems.append(f"perplexity rises by {increase:.1%} (allowed: {limits.max_perplexity_increase:.1%})")
    if not measured.kl <= limits.max_kl:
        problems.append(f"KL to the original is {measured.kl:.4f} nats per token (allowed: {limits.max_kl:.4f})")
    if problems:
        raise RuntimeError(
            f"the quantized model is refused, on {measured.tokens} tokens: {' and '.join(problems)}; "
            "use a gentler method, or raise the gate's limits if that loss is acceptable"
        )


def _compare(original_TV: "torch.Tensor", quantized_TV: "torch.Tensor", targets_T: "torch.Tensor") -> "torch.Tensor":
    """Return [4, T] float32: log p(target) of both, KL(original ‖ quantized), 1 where the likeliest token agrees."""
    import torch

    parts = []
    for start in range(0, len(targets_T), _CHUNK_TOKENS):
        rows = slice(start, start + _CHUNK_TOKENS)
        p, q = original_TV[rows].float().log_softmax(-1), quantized_TV[rows].float().log_softmax(-1)
        target = targets_T[rows, None]
        kl = (p.exp() * (p - q)).sum(-1)
        agrees = (p.argmax(-1) == q.argmax(-1)).float()
        parts.append(torch.stack([p.gather(-1, target)[:, 0], q.gather(-1, target)[:, 0], kl, agrees]))
    return torch.cat(parts, dim=1)
