"""Several adapters on one frozen model: computing with one of them, and a reward model that is one of them.

Shapes: K heads of a reward model, H hidden.
"""

import contextlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch

from components.config import UserError
from components.models.packing import Packed, hidden_states
from components.models.rewards import RewardInfo


@contextlib.contextmanager
def wearing(model: Any, name: str | None) -> Iterator[None]:
    """Compute with the adapter ``name``, or with none.

    PEFT's own switch also freezes the adapters that it turns off, under the optimizer that trains them; so the
    layers are told directly.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    before = [(layer._active_adapter, layer._disable_adapters) for layer in layers]
    for layer in layers:
        layer._active_adapter, layer._disable_adapters = [name] if name else [], name is None
    try:
        yield
    finally:
        for layer, (active, disabled) in zip(layers, before, strict=True):
            layer._active_adapter, layer._disable_adapters = active, disabled


class RewardOnTrunk:
    """A reward model that is an adapter on the policy's own trunk."""

    def __init__(self, model: Any, name: str, folder: Path) -> None:
        """Put the adapter in ``folder`` on the PEFT model ``model`` under ``name``, frozen."""
        from safetensors.torch import load_file

        self.model, self.name, self.folder = model.get_base_model(), name, folder
        self.info = RewardInfo.read(folder)
        self.state = load_file(folder / "adapter_model.safetensors")
        load_adapter(model, name, folder, self.state)
        self.first_layer = lowest_block(self.state)
        (head,) = [weight for key, weight in self.state.items() if key.endswith("score.weight")]
        self.head_KH = head.to(self.model.device, torch.float32)

    def score(self, packed: Packed, places: torch.Tensor) -> torch.Tensor:
        """Return the normalised rewards [places, K]."""
        with wearing(self.model, self.name):
            hidden = hidden_states(self.model, packed)[places].float()
        mean, std = (torch.tensor(figures, device=hidden.device) for figures in (self.info.mean, self.info.std))
        return (hidden @ self.head_KH.T - mean) / std


def lowest_block(weights: Iterable[str]) -> int:
    """Return the lowest block in which an adapter has weights, by their names; 0 where one is in no block."""
    blocks = [re.search(r"\.layers\.(\d+)\.", name) for name in weights if "score." not in name]
    return min((int(block[1]) if block else 0 for block in blocks), default=0)


def load_adapter(model: Any, name: str, folder: Path, state: dict[str, torch.Tensor]) -> None:
    """Put one more adapter on a PEFT model, whatever task it was trained for, with the weights ``state``; frozen.

    Raises:
        UserError: it does not fit the model.
    """
    from peft import LoraConfig, set_peft_model_state_dict

    known = json.loads((folder / "adapter_config.json").read_text())
    kept = ("r", "lora_alpha", "target_modules", "exclude_modules", "use_rslora", "rank_pattern", "alpha_pattern")
    model.add_adapter(name, LoraConfig(task_type="CAUSAL_LM", **{key: known[key] for key in kept if key in known}))
    own = {key: weight for key, weight in state.items() if "score." not in key}
    outcome = set_peft_model_state_dict(model, own, adapter_name=name)
    if outcome.unexpected_keys:
        raise UserError(f"the adapter {folder} does not fit the model: it has {outcome.unexpected_keys[0]}")


def only_trainable(model: Any, names: set[str]) -> None:
    """Let the adapters in ``names`` be trained, and nothing else."""
    for key, weight in model.named_parameters():
        weight.requires_grad_(".lora_" in key and any(f".{name}." in key for name in names))
