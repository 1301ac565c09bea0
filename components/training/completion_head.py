"""Forward passes that compute only what a loss on completions needs.

Two savings over a plain forward, with the same result but for rounding: the output head runs on completion
positions alone (a prompt token's next-token distribution is never used), and of a preference pair the prompt
runs once: [prompt, chosen, rejected] is one sequence in which the rejected tokens cannot see the chosen ones
and carry on from the prompt's last position.

Shapes: B sequences (P pairs: B = 2P, chosen first), T tokens, L packed tokens, N completion tokens, V vocabulary.
"""

import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from components.data.chat import IGNORED

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


@dataclass
class Packed:
    """Sequences as the backbone reads them, and which of its outputs predicts which label."""

    input_ids: "torch.Tensor"  # [B, T], or [P, L] for pairs
    attention_mask: "torch.Tensor"  # [B, T] of 0 and 1, or additive [P, 1, L, L] for pairs
    position_ids: "torch.Tensor | None"
    source_N: "torch.Tensor"  # index into the flattened outputs


def attach(model: Any, *, pairs: bool) -> None:
    """Make ``model(..., labels=…, fused_lm_head=True)`` compute on completions only, as TRL's trainers call it.

    Called without ``fused_lm_head`` the model does what it did before. With ``pairs`` the batch holds chosen
    rows, then the rejected rows of the same prompts.
    """
    plain_forward = model.forward

    def forward(*args: Any, fused_lm_head: bool = False, **inputs: Any) -> Any:
        if not fused_lm_head:
            return plain_forward(*args, **inputs)
        return completion_forward(model, inputs["input_ids"], inputs["attention_mask"], inputs["labels"], pairs)

    model.forward = forward


def can_share_prompt(model: Any) -> bool:
    """Return whether a mask and positions say all about which token sees which: full attention in every layer."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or []
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    is_full = window is None and all(kind == "full_attention" for kind in layers)
    takes_mask = model.config._attn_implementation in ("sdpa", "eager")
    return is_full and takes_mask and "position_ids" in inspect.signature(model.base_model.forward).parameters


def completion_forward(
    model: Any,
    input_ids_BT: "torch.Tensor",
    attention_BT: "torch.Tensor",
    labels_BT: "torch.Tensor",
    pairs: bool,
) -> CompletionOutput:
    """Return log-probabilities and statistics of the labelled tokens."""
    mask = labels_BT[:, 1:] != IGNORED
    packed = (pack_pairs if pairs else keep)(input_ids_BT, attention_BT, labels_BT, model.dtype)
    extra = {} if packed.position_ids is None else {"position_ids": packed.position_ids}
    hidden = model.base_model(
        input_ids=packed.input_ids, attention_mask=packed.attention_mask, use_cache=False, **extra
    ).last_hidden_state
    hidden_N = hidden.reshape(-1, hidden.shape[-1])[packed.source_N]
    figures = _score(model.get_output_embeddings(), hidden_N, labels_BT[:, 1:][mask])
    log_probs, entropy, mean_logits, is_top1 = (
        values.new_zeros(mask.shape).masked_scatter(mask, values) for values in figures
    )
    return CompletionOutput(log_probs, entropy, mean_logits, is_top1, mask)


def keep(
    input_ids_BT: "torch.Tensor",
    attention_BT: "torch.Tensor",
    labels_BT: "torch.Tensor",
    dtype: "torch.dtype",
) -> Packed:
    """Return the sequences as they are; only the outputs that predict a label are looked at."""
    rows, columns = (labels_BT[:, 1:] != IGNORED).nonzero(as_tuple=True)
    return Packed(input_ids_BT, attention_BT, None, rows * input_ids_BT.shape[1] + columns)


def pack_pairs(
    input_ids_BT: "torch.Tensor",
    attention_BT: "torch.Tensor",
    labels_BT: "torch.Tensor",
    dtype: "torch.dtype",
) -> Packed:
    """Return each pair as one sequence: prompt, chosen, rejected, the last two blind to each other."""
    import torch

    lengths = attention_BT.sum(1)
    completions = (labels_BT != IGNORED).sum(1)
    chosen, rejected = completions.chunk(2)
    prompts = lengths.chunk(2)[0] - chosen
    pairs, width = len(prompts), int((prompts + chosen + rejected).max())
    ids = input_ids_BT.new_zeros((pairs, width))
    positions = torch.zeros_like(ids)
    segment = torch.full_like(ids, -1)  # 0 prompt, 1 chosen, 2 rejected, -1 padding
    sources = []
    for pair in range(pairs):
        p, c, r = int(prompts[pair]), int(chosen[pair]), int(rejected[pair])
        ids[pair, : p + c] = input_ids_BT[pair, : p + c]
        ids[pair, p + c : p + c + r] = input_ids_BT[pairs + pair, p : p + r]
        positions[pair, : p + c] = torch.arange(p + c)
        positions[pair, p + c : p + c + r] = torch.arange(p, p + r)
        segment[pair, :p], segment[pair, p : p + c], segment[pair, p + c : p + c + r] = 0, 1, 2
    for pair in range(pairs):
        first = pair * width + int(prompts[pair]) - 1
        sources.append(torch.arange(first, first + int(chosen[pair])))
    for pair in range(pairs):
        first = pair * width + int(prompts[pair]) - 1
        after = torch.arange(int(rejected[pair])) + first + int(chosen[pair])
        after[:1] = first  # the prompt's last token predicts the first token of either completion
        sources.append(after)
    causal = torch.ones((width, width), dtype=torch.bool, device=ids.device).tril()
    hidden = (segment[:, :, None] == 2) & (segment[:, None, :] == 1)
    sees = causal & ~hidden  # a padding row sees what stands before it: no row may be blind, or softmax is NaN
    additive = torch.zeros((pairs, 1, width, width), dtype=dtype, device=ids.device)
    additive.masked_fill_(~sees[:, None], torch.finfo(dtype).min)
    return Packed(ids, additive, positions, torch.cat(sources).to(ids.device))


def _score(head: Any, hidden_N: "torch.Tensor", labels_N: "torch.Tensor") -> tuple["torch.Tensor", ...]:
    """Return log-probability, entropy, mean logit and whether the label is likeliest, of each position."""
    import torch
    from torch.utils.checkpoint import checkpoint

    def score(hidden: "torch.Tensor", labels: "torch.Tensor") -> tuple["torch.Tensor", ...]:
        logits = head(hidden).float()
        log_norm = logits.logsumexp(-1)
        log_probs = logits.gather(-1, labels[:, None]).squeeze(-1) - log_norm
        with torch.no_grad():
            entropy = log_norm - ((logits - log_norm[:, None]).exp() * logits).sum(-1)
            return log_probs, entropy, logits.mean(-1), logits.argmax(-1) == labels

    if len(labels_N) <= _HELD_TOKENS or not torch.is_grad_enabled():
        return score(hidden_N, labels_N)
    parts = [
        checkpoint(score, hidden, labels, use_reentrant=False)
        for hidden, labels in zip(hidden_N.split(_HELD_TOKENS), labels_N.split(_HELD_TOKENS), strict=True)
    ]
    return tuple(torch.cat(values) for values in zip(*parts, strict=True))
