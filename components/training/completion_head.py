"""Forward passes that compute only what a loss on completions needs.

Two savings over a plain forward, with the same result but for rounding: the output head runs on completion
positions alone (a prompt token's next-token distribution is never used), and completions of one prompt share
its forward pass (``components.models.packing``).

Shapes: B sequences, T tokens, N completion tokens, V vocabulary.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.data.chat import IGNORED
from components.models.output_head import Head, output_head
from components.models.packing import hidden_states, pack

if TYPE_CHECKING:
    import torch

_HELD_TOKENS = 2048  # completion tokens whose [V] float32 logits are kept for the backward pass; more are recomputed


@dataclass
class CompletionOutput:
    """What TRL's trainers read of a forward pass; [B, T - 1] each, zero where the label is IGNORED."""

    log_probs: "torch.Tensor"  # natural log, float32, of each next-token label
    entropy: "torch.Tensor"  # of the next-token distribution, nats, without gradient
    mean_logits: "torch.Tensor"  # mean over the vocabulary, without gradient
    is_top1: "torch.Tensor"  # True where the label is the likeliest token
    label_mask: "torch.Tensor"  # True where the label counts


def attach(model: Any, *, share: int) -> None:
    """Make ``model(..., labels=…, fused_lm_head=True)`` compute on completions only, as TRL's trainers call it.

    Called without ``fused_lm_head`` the model does what it did before. ``share`` completions belong to each
    prompt: 2 where the batch holds chosen rows, then the rejected rows of the same prompts.
    """
    plain_forward = model.forward

    def forward(*args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if not fused_lm_head:
            return plain_forward(*args, **inputs)
        return completion_forward(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"], share)

    model.forward = forward


def completion_forward(
    model: Any,
    input_ids_BT: "torch.Tensor",
    attention_BT: "torch.Tensor",
    labels_BT: "torch.Tensor",
    share: int,
) -> CompletionOutput:
    """Return log-probabilities and statistics of the labelled tokens."""
    is_completion = labels_BT != IGNORED
    mask = is_completion[:, 1:]
    packed = pack(input_ids_BT, attention_BT, is_completion, model.dtype, share)
    hidden_N = hidden_states(model, packed)[packed.predicts_N]
    figures = score_tokens(output_head(model), hidden_N, labels_BT[:, 1:][mask])
    log_probs, entropy, mean_logits, is_top1 = (
        values.new_zeros(mask.shape).masked_scatter(mask, values) for values in figures
    )
    return CompletionOutput(log_probs, entropy, mean_logits, is_top1, mask)


def score_tokens(
    head: Head,
    hidden_N: "torch.Tensor",
    labels_N: "torch.Tensor",
    *,
    temperature: float = 1.0,
    entropy_gradient: bool = False,
) -> tuple["torch.Tensor", ...]:
    """Return log-probability, entropy, mean logit and whether the label is likeliest, of each position.

    Args:
        head: what makes logits [N, V] of the outputs (``output_head``).
        temperature: what logits are divided by; log-probabilities are those of drawing at it.
        entropy_gradient: whether entropy, too, has a gradient.
    """
    import torch
    from torch.utils.checkpoint import checkpoint

    def score(hidden: "torch.Tensor", labels: "torch.Tensor") -> tuple["torch.Tensor", ...]:
        logits = head(hidden).float()
        if temperature != 1:  # else a pass over [V] for nothing, and another one backward
            logits = logits / temperature
        log_norm = logits.logsumexp(-1)
        log_probs = logits.gather(-1, labels[:, None]).squeeze(-1) - log_norm
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
            entropy = log_norm - ((logits - log_norm[:, None]).exp() * logits).sum(-1)
        with torch.no_grad():
            return log_probs, entropy, logits.mean(-1), logits.argmax(-1) == labels

    if len(labels_N) <= _HELD_TOKENS:
        return score(hidden_N, labels_N)
    keeps_graph = torch.is_grad_enabled()
    parts = [
        checkpoint(score, hidden, labels, use_reentrant=False) if keeps_graph else score(hidden, labels)
        for hidden, labels in zip(hidden_N.split(_HELD_TOKENS), labels_N.split(_HELD_TOKENS), strict=True)
    ]
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))
