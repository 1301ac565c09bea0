"""A model's logits from its backbone's outputs, wherever only some positions need them.

What an architecture does to its logits after the head is part of the model: Granite divides them, Cohere and Falcon-H1
multiply them (both so that widths share their settings: muP, arXiv 2203.03466), Gemma 2 caps them softly (arXiv
2408.00118, section 2: cap · tanh(logits / cap)). A loss on the bare head's outputs would train another model than the
one that is served.

Shapes: H hidden size, V vocabulary.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from components.config import UserError

if TYPE_CHECKING:
    import torch

Head = Callable[["torch.Tensor"], "torch.Tensor"]

_FACTORS = ("logit_scale", "output_multiplier", "lm_head_multiplier")  # names of what logits are multiplied by
_MULTIPLIES = ("hyperclovax",)  # model types whose logits_scaling is a factor; the others' is a divisor
_PROBE = 8  # tokens
_TOLERANCE = 0.02  # of the largest logit: several times bfloat16's rounding, far below a scale or cap left out


def output_head(model: Any) -> Head:
    """Return what turns the backbone's outputs [..., H] into the model's logits [..., V], in its number format."""
    head, config = model.get_output_embeddings(), model.config.get_text_config()
    factor, cap = _factor(config), getattr(config, "final_logit_softcapping", None)
    if factor == 1 and cap is None:
        return head

    def logits(hidden: "torch.Tensor") -> "torch.Tensor":
        made = head(hidden)
        if factor != 1:
            made = made * factor
        return made if cap is None else (made / cap).tanh() * cap

    return logits


def check_head(model: Any) -> None:
    """See on a few tokens that ``output_head`` makes the logits which the model makes by itself.

    A model whose weights are divided among workers already (ZeRO-3) is not looked at: none of them can run it alone.

    Raises:
        UserError: it does not: the architecture does something to its logits that is not known here.
    """
    import torch

    if any(hasattr(weight, "ds_id") for weight in model.parameters()):
        return
    was_training = model.training
    model.eval()
    ids_BT = torch.arange(_PROBE, device=model.device)[None] % model.config.get_text_config().vocab_size
    with torch.no_grad():  # not inference mode: what a model keeps of this pass may be in a backward pass later
        hidden = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
        ours = output_head(model)(hidden).float()
        own = model(input_ids=ids_BT, use_cache=False).logits.float()
    model.train(was_training)
    if ours.shape != own.shape or not (ours - own).abs().max() <= _TOLERANCE * own.abs().max():
        raise UserError(
            f"{type(model).__name__} does more to its logits than Raylign knows of, so that its log-probabilities "
            "would be wrong: choose a model of another architecture"
        )


def _factor(config: Any) -> float:
    for name in _FACTORS:
        if isinstance(found := getattr(config, name, None), (int, float)):
            return float(found)
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type in _MULTIPLIES else 1 / float(scaling)
