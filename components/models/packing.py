"""Completions of one prompt in one sequence: the prompt is read once, whatever the number of completions.

[prompt, first, second, …] is one sequence in which no completion sees another, and each carries on from the
prompt's last position. What a backbone computes for a completion is what it computes for prompt + completion
alone, but for rounding.

Shapes: B sequences (of P prompts, ``share`` completions each), T tokens, L packed tokens, N completion tokens.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass
class Packed:
    """Sequences as the backbone reads them, and where its outputs are; indices are into the flattened outputs."""

    input_ids: "torch.Tensor"  # [B, T], or [P, L] where prompts are shared
    attention_mask: "torch.Tensor"  # [B, T] of 0 and 1, or additive [P, 1, L, L]
    position_ids: "torch.Tensor | None"
    predicts_N: "torch.Tensor"  # the output that predicts each completion token
    holds_N: "torch.Tensor"  # the output at each completion token itself
    last_B: "torch.Tensor"  # the output at the last token of each sequence
    below_BTH: "torch.Tensor | None" = None  # what the layers under ``first_layer`` made of the tokens, if known
    first_layer: int = 0


def can_share_prompt(model: Any) -> bool:
    """Return whether a mask and positions say all about which token sees which: full attention in every layer."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None) or []
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    is_full = window is None and all(kind == "full_attention" for kind in layers)
    takes_mask = model.config._attn_implementation in ("sdpa", "eager")
    return is_full and takes_mask and "position_ids" in inspect.signature(model.base_model.forward).parameters


def collate(rows: Sequence[tuple[Sequence[int], Sequence[int]]], pad_id: int) -> dict[str, "torch.Tensor"]:
    """Return input_ids, attention and completion mask [B, T] of (prompt, completion) ids, padded on the right."""
    import torch

    width = max(len(prompt) + len(completion) for prompt, completion in rows)
    ids = torch.full((len(rows), width), pad_id)
    attention, is_completion = torch.zeros_like(ids), torch.zeros_like(ids, dtype=torch.bool)
    for at, (prompt, completion) in enumerate(rows):
        end = len(prompt) + len(completion)
        ids[at, :end] = torch.tensor([*prompt, *completion])
        attention[at, :end] = 1
        is_completion[at, len(prompt) : end] = True
    return {"input_ids_BT": ids, "attention_BT": attention, "completion_BT": is_completion}


def pack(
    input_ids_BT: "torch.Tensor",
    attention_BT: "torch.Tensor",
    completion_BT: "torch.Tensor",
    dtype: "torch.dtype",
    share: int = 1,
) -> Packed:
    """Return the batch as the backbone shall read it.

    Args:
        completion_BT: True on completion tokens.
        dtype: number format of the model, which an additive mask must have.
        share: completions of each prompt; the batch holds the first ones of all prompts, then the second ones, …
    """
    if share == 1:
        return _keep(input_ids_BT, attention_BT, completion_BT)
    return _share(input_ids_BT, attention_BT, completion_BT, dtype, share)


def hidden_states(model: Any, packed: Packed) -> "torch.Tensor":
    """Return the backbone's outputs, flattened: [tokens, hidden]."""
    if packed.below_BTH is not None:
        from components.models.trunk_split import above

        return above(model, packed).flatten(0, 1)
    return run_backbone(model, packed, input_ids=packed.input_ids).flatten(0, 1)


def run_backbone(model: Any, packed: Packed, **tokens: "torch.Tensor") -> "torch.Tensor":
    """Return the backbone's outputs [B, T, H] for ``tokens`` (``input_ids`` or ``inputs_embeds``), as packed."""
    extra = {} if packed.position_ids is None else {"position_ids": packed.position_ids}
    return model.base_model(attention_mask=packed.attention_mask, use_cache=False, **tokens, **extra).last_hidden_state


def _keep(input_ids_BT: "torch.Tensor", attention_BT: "torch.Tensor", completion_BT: "torch.Tensor") -> Packed:
    """Return the sequences as they are."""
    import torch

    width = input_ids_BT.shape[1]
    rows, columns = completion_BT[:, 1:].nonzero(as_tuple=True)
    places_T = torch.arange(width, device=attention_BT.device)
    last_B = (attention_BT * places_T).argmax(1) + width * torch.arange(len(attention_BT), device=places_T.device)
    at_N = rows * width + columns
    return Packed(input_ids_BT, attention_BT, None, at_N, at_N + 1, last_B)


def _share(
    input_ids_BT: "torch.Tensor",
    attention_BT: "torch.Tensor",
    completion_BT: "torch.Tensor",
    dtype: "torch.dtype",
    share: int,
) -> Packed:
    """Return each prompt with all of its completions as one sequence."""
    import torch

    prompts = len(input_ids_BT) // share
    lengths = completion_BT.sum(1).view(share, prompts).tolist()
    starts = attention_BT.argmax(1).tolist()
    heads = (attention_BT.sum(1)[:prompts] - torch.tensor(lengths[0], device=attention_BT.device)).tolist()
    width = max(head + sum(own[p] for own in lengths) for p, head in enumerate(heads))
    ids = input_ids_BT.new_zeros((prompts, width))
    positions = torch.zeros_like(ids)
    segment = torch.full_like(ids, -1)  # 0 prompt, k its k-th completion, -1 padding
    predicts: list[torch.Tensor] = []
    holds: list[torch.Tensor] = []
    ends = list(heads)
    for p, head in enumerate(heads):
        ids[p, :head] = input_ids_BT[p, starts[p] : starts[p] + head]
        positions[p, :head], segment[p, :head] = torch.arange(head), 0
    for k, own in enumerate(lengths):
        for p, (head, length) in enumerate(zip(heads, own, strict=True)):
            start, end = ends[p], ends[p] + length
            row = k * prompts + p
            ids[p, start:end] = input_ids_BT[row, starts[row] + head : starts[row] + head + length]
            positions[p, start:end] = torch.arange(head, head + length)
            segment[p, start:end] = k + 1
            own_places = p * width + torch.arange(start, end)
            before = own_places - 1
            before[:1] = p * width + head - 1  # the prompt's last token predicts the first token of every completion
            predicts.append(before)
            holds.append(own_places)
            ends[p] = end
    causal = torch.ones((width, width), dtype=torch.bool, device=ids.device).tril()
    asks, asked = segment[:, :, None], segment[:, None, :]
    hidden = (asks > 0) & (asked > 0) & (asks != asked)
    sees = causal & ~hidden  # a padding row sees what stands before it: no row may be blind, or softmax is NaN
    additive = torch.zeros((prompts, 1, width, width), dtype=dtype, device=ids.device)
    additive.masked_fill_(~sees[:, None], torch.finfo(dtype).min)
    last_B = torch.stack([places[-1] for places in holds])
    return Packed(
        ids,
        additive,
        positions,
        torch.cat(predicts).to(ids.device),
        torch.cat(holds).to(ids.device),
        last_B.to(ids.device),
    )
