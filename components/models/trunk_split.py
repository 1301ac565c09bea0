"""The layers below the first adapted one, computed once for many passes over the same tokens.

Where adapters sit on the upper layers only, nothing that is trained changes what the layers below make of a
token: their outputs are constants of the batch. They are computed once, and every later pass starts from them.

Shapes: B sequences, T tokens, H hidden.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from components.models.packing import Packed

_PROBE = 5  # tokens on which both ways are compared
_TOLERANCE = 1e-4


def can_split(model: Any, first: int) -> bool:
    """Return whether the backbone computes the same in two parts; tried on a few tokens.

    Some backbones do more to embeddings than to hand them to their first layer, and would do so twice.
    """
    import torch

    from components.models.packing import Packed, hidden_states

    backbone = model.base_model
    if not 0 < first < len(getattr(backbone, "layers", ())) or not hasattr(backbone, "norm"):
        return False
    ids = torch.arange(_PROBE, device=model.device)[None]
    nowhere = ids.new_zeros(0)
    packed = Packed(ids, torch.ones_like(ids), None, nowhere, nowhere, nowhere)
    with torch.no_grad():
        expected = hidden_states(model, packed).float()
        packed.below_BTH, packed.first_layer = below(model, packed, first), first
        found = hidden_states(model, packed).float()
    return bool(((found - expected).abs().max() <= _TOLERANCE * expected.abs().max()).item())


def below(model: Any, packed: "Packed", first: int) -> "torch.Tensor":
    """Return what the layers under ``first`` make of the tokens [B, T, H], without gradient."""
    import torch

    from components.models.packing import run_backbone

    with torch.no_grad(), _only(model.base_model, slice(first), torch.nn.Identity()):
        return run_backbone(model, packed, input_ids=packed.input_ids)


def above(model: Any, packed: "Packed") -> "torch.Tensor":
    """Return the backbone's outputs [B, T, H] of a batch that holds what the layers below made of it."""
    from components.models.packing import run_backbone

    assert packed.below_BTH is not None
    with _only(model.base_model, slice(packed.first_layer, None), model.base_model.norm):
        return run_backbone(model, packed, inputs_embeds=packed.below_BTH)


def pad(rows: Sequence["torch.Tensor"], width: int) -> "torch.Tensor":
    """Return [T, H] of several sequences as one tensor [B, width, H], 0 after each one's end."""
    import torch

    return torch.stack([torch.nn.functional.pad(row, (0, 0, 0, width - len(row))) for row in rows])


@contextlib.contextmanager
def _only(backbone: Any, part: slice, norm: Any) -> Iterator[None]:
    """Let the backbone have some of its layers, and ``norm`` after them."""
    layers, own_norm = backbone.layers, backbone.norm
    backbone.layers, backbone.norm = layers[part], norm
    try:
        yield
    finally:
        backbone.layers, backbone.norm = layers, own_norm
