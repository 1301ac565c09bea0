"""TR-DPO: a reference that follows the policy, mixed with it every so many steps, and so computed in the step.

Soft: reference <- a policy + (1 - a) reference; hard: reference <- policy. What is mixed are weights. Of a policy
W + s B A on a frozen W the reference is W + D, and mixing weights is mixing products, D <- a s B A + (1 - a) D:
mixing A with A and B with B would be another model. D is kept as a product of two thin matrices, [(1 - a) B', a s B]
times [A'; A], brought back to as many directions as it has. So the reference is one more pass over the policy's own
trunk. Where all weights are trained it is a second model.

TRL's ``sync_ref_model`` does none of this with PEFT, and without it mixes in the weights' own number format and keeps
nothing for a restart: here the mix is in float32, and a checkpoint holds it.

Source: Gorbatovski et al. 2024 (arXiv 2404.09656), the soft and the hard update.

Shapes: B sequences, T tokens, P pairs; I inputs and O outputs of a layer, R directions.
"""

import contextlib
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import model_validator

from components.config import Config, Field, UserError
from components.data.chat import IGNORED
from components.models.adapters import AdapterConfig

if TYPE_CHECKING:
    import torch

    from components.training.preference_losses import LossConfig

FILE = "reference.pt"
_MIX = 0.6  # as the default of TRL
_TINY = 1e-6  # of the largest singular value: what is below it is rounding
_NOT_MIXED = {
    "dora": "divides each row of W + BA by its length, so that its weights are no sum that could be mixed in parts",
    "adalora": "takes directions away while it trains, which its reference would have to know of",
    "qlora": "has its base in 4 bits, whose layers have a pass of their own that knows of no second delta",
    "longlora": "trains embeddings and norms beside the low-rank matrices, and its attention is cut while it trains",
}


class ReferenceConfig(Config):
    """Whether the reference stays the model that training started from, or follows the policy (TR-DPO)."""

    update: Literal["none", "soft", "hard"] = Field(
        "none",
        description="none: it stays, and its log-probabilities are kept; soft: every so many steps the policy is mixed "
        "into it, hard: replaces it (TR-DPO, arXiv 2404.09656), and then it is computed in the step",
    )
    mix: float | None = Field(None, gt=0, le=1, description="soft: the policy's share of the mix; none takes 0.6")
    every: int = Field(64, ge=1, description="soft, hard: optimizer steps between two updates")

    @model_validator(mode="after")
    def _mix_is_of_soft(self) -> "ReferenceConfig":
        if self.mix is not None and self.update != "soft":
            raise UserError(f"reference.mix is set, but reference.update is {self.update}: set reference.update=soft")
        return self

    @property
    def moves(self) -> bool:
        """Whether the reference follows the policy."""
        return self.update != "none"

    @property
    def share(self) -> float:
        """The policy's share in an update."""
        return 1.0 if self.update == "hard" else self.mix or _MIX

    def check_steps(self, steps: int) -> None:
        """Refuse a reference that would not move in so many optimizer steps.

        Raises:
            UserError: naming the key to change.
        """
        if self.moves and self.every > steps:
            raise UserError(
                f"reference.every={self.every}, and the training has {steps} steps: the reference would never move; "
                "set fewer, or reference.update=none"
            )

    def check(self, loss: "LossConfig", adapter: AdapterConfig, *, zero_stage: int) -> None:
        """Refuse what cannot have a moving reference, before anything starts.

        Raises:
            UserError: with the reason.
        """
        if not self.moves:
            return
        said = f"reference.update={self.update}"
        if not loss.has_reference:
            raise UserError(f"{said}: the loss '{loss.name}' has no reference: set reference.update=none")
        if loss.name == "kto":
            raise UserError(
                f"{said}: kto measures its KL with log-probabilities that the reference has for a whole table at "
                "once: set reference.update=none, or choose a loss of pairs"
            )
        if zero_stage == 3:
            raise UserError(f"{said} mixes whole weights, and ZeRO-3 leaves a worker a shard: use deepspeed.stage 0-2")
        if adapter.name in _NOT_MIXED:
            reason = _NOT_MIXED[adapter.name]
            raise UserError(f"{said}: adapter.name={adapter.name} {reason}; use lora, rslora, loraplus or none")


class MovingReference(Protocol):
    """A reference that can be asked, moved, written and restored."""

    def logprobs(self, batch: Mapping[str, Any]) -> dict[str, "torch.Tensor"]:
        """Return ``ref_chosen_logps`` and ``ref_rejected_logps`` [P] of a batch: chosen rows, then rejected ones."""

    def move(self, share: float) -> None:
        """Mix the policy in, as it is now: ``share`` of it, the rest of what the reference was."""

    def state(self) -> dict[str, "torch.Tensor"]:
        """Return what a restart needs, in float32."""

    def restore(self, state: Mapping[str, "torch.Tensor"]) -> None:
        """Be what ``state`` was."""


class LowRankReference:
    """W + D beside the policy's W + s B A, on the same frozen W."""

    def __init__(self, model: Any, share_prompt: int) -> None:
        """Start as W alone.

        Args:
            model: the causal language model, with PEFT's layers in it.
            share_prompt: completions of each prompt in a batch; see ``packing.pack``.

        Raises:
            UserError: an adapted layer is no linear one.
        """
        import torch
        from peft.tuners.lora.layer import Linear, LoraLayer

        self.model, self.share_prompt = model, share_prompt
        adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
        for name, layer in adapted.items():
            if type(layer) is not Linear:
                raise UserError(f"reference.update: {name} is no plain linear layer: leave it out of target_modules")
        self.layers: dict[str, Any] = adapted
        self.factors: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
            name: (torch.zeros(0, layer.in_features), torch.zeros(layer.out_features, 0))
            for name, layer in adapted.items()
        }

    def logprobs(self, batch: Mapping[str, Any]) -> dict[str, "torch.Tensor"]:
        """As ``MovingReference``."""
        with self._worn():
            return _logprobs(self.model, batch, self.share_prompt)

    def move(self, share: float) -> None:
        """As ``MovingReference``."""
        for name, layer in self.layers.items():
            (adapter,) = layer.active_adapters
            a_RI = layer.lora_A[adapter].weight.detach().float()
            b_OR = layer.lora_B[adapter].weight.detach().float() * layer.scaling[adapter]
            self.factors[name] = mixed_product(self.factors[name], (a_RI, b_OR), share)

    def state(self) -> dict[str, "torch.Tensor"]:
        """As ``MovingReference``."""
        sides = {f"{name}.A": a_RI for name, (a_RI, _) in self.factors.items()}
        return sides | {f"{name}.B": b_OR for name, (_, b_OR) in self.factors.items()}

    def restore(self, state: Mapping[str, "torch.Tensor"]) -> None:
        """As ``MovingReference``."""
        self.factors = {name: (state[f"{name}.A"], state[f"{name}.B"]) for name in self.factors}

    @contextlib.contextmanager
    def _worn(self) -> Iterator[None]:
        """Let the adapted layers compute with D in place of the policy's adapter."""
        before = {name: layer.forward for name, layer in self.layers.items()}
        for name, layer in self.layers.items():
            weight = layer.get_base_layer().weight
            a_RI, b_OR = (factor.to(weight.device, weight.dtype) for factor in self.factors[name])
            layer.forward = functools.partial(_forward, layer, a_RI, b_OR)
        try:
            yield
        finally:
            for name, layer in self.layers.items():
                layer.forward = before[name]


class WholeReference:
    """A second model, whose weights are mixed with the policy's in float32."""

    def __init__(self, model: Any, folder: str, dtype: str, share_prompt: int) -> None:
        """Load the model that training starts from; ``model`` is the policy, all of whose weights are trained."""
        from components.models.load import load_model

        self.policy, self.share_prompt = model, share_prompt
        self.model: Any = load_model(folder, dtype).requires_grad_(False)  # type: ignore[arg-type]
        self.exact = {name: weight.detach().float() for name, weight in self.model.named_parameters()}

    def logprobs(self, batch: Mapping[str, Any]) -> dict[str, "torch.Tensor"]:
        """As ``MovingReference``."""
        self.model.to(batch["input_ids"].device)
        return _logprobs(self.model, batch, self.share_prompt)

    def move(self, share: float) -> None:
        """As ``MovingReference``."""
        policy = dict(self.policy.named_parameters())
        self.restore(
            {
                name: policy[name].detach().to(value.device, value.dtype).lerp(value, 1 - share)
                for name, value in self.exact.items()
            }
        )

    def state(self) -> dict[str, "torch.Tensor"]:
        """As ``MovingReference``."""
        return self.exact

    def restore(self, state: Mapping[str, "torch.Tensor"]) -> None:
        """As ``MovingReference``."""
        self.exact = dict(state)
        for name, weight in self.model.named_parameters():
            weight.data = state[name].to(weight.device, weight.dtype)


def make(payload: Mapping[str, Any], model: Any, share_prompt: int) -> MovingReference:
    """Return the reference of a loop's payload; ``model`` is the policy, with its adapter in it."""
    if payload["adapter"]["name"] == "none":
        return WholeReference(model, payload["model"], payload["dtype"], share_prompt)
    return LowRankReference(model, share_prompt)


def attach(trainer: Any, reference: MovingReference, config: ReferenceConfig) -> None:
    """Move the reference after every so many steps of the trainer, write it into checkpoints, and restore it."""
    import torch
    from transformers import TrainerCallback

    class Moves(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step:
                path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE
                reference.restore(torch.load(path, weights_only=True, map_location="cpu"))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step % config.every == 0:
                reference.move(config.share)

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                torch.save(reference.state(), Path(args.output_dir) / f"checkpoint-{state.global_step}" / FILE)

    # First in the row, as the checkpoint is declared whole by a later callback.
    trainer.callback_handler.callbacks.insert(0, Moves())


def mixed_product(
    kept: "tuple[torch.Tensor, torch.Tensor]", added: "tuple[torch.Tensor, torch.Tensor]", share: float
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Return (A [R, I], B [O, R]) whose product B A is ``share`` of the added one plus the rest of the kept one.

    The two stand side by side at first; then QR of both sides and the singular values of the small square between
    them leave as many directions as the sum has. Computed in float64, returned in float32.
    """
    import torch

    (a_RI, b_OR), (more_RI, more_OR) = kept, added
    if share == 1.0 or not len(a_RI):
        return more_RI.clone(), share * more_OR
    a_RI, b_OR = a_RI.to(more_RI.device), b_OR.to(more_RI.device)
    a = torch.cat([a_RI, more_RI]).double()
    b = torch.cat([(1 - share) * b_OR, share * more_OR], 1).double()
    left, upper = torch.linalg.qr(b)
    right, lower = torch.linalg.qr(a.T)
    u, values, v = torch.linalg.svd(upper @ lower.T)
    size = int((values > _TINY * values[0]).sum()) if values[0] > 0 else 0
    root = values[:size].sqrt()
    return (root[:, None] * (v[:size] @ right.T)).float(), (left @ u[:, :size] * root).float()


def _forward(layer: Any, a_RI: "torch.Tensor", b_OR: "torch.Tensor", x: "torch.Tensor") -> "torch.Tensor":
    y = layer.get_base_layer()(x)
    return y + (x @ a_RI.T) @ b_OR.T if len(a_RI) else y


def _logprobs(model: Any, batch: Mapping[str, Any], share_prompt: int) -> dict[str, "torch.Tensor"]:
    """Return the sums of the completions' log-probabilities, without gradient and without dropout."""
    import torch

    from components.training.completion_head import completion_forward

    ids_BT, completion_BT = batch["input_ids"], batch["completion_mask"]
    labels_BT = ids_BT.masked_fill(completion_BT == 0, IGNORED)
    trains = model.training
    model.eval()
    try:
        with torch.no_grad():
            found = completion_forward(model, ids_BT, batch["attention_mask"], labels_BT, share_prompt)
    finally:
        model.train(trains)
    chosen_P, rejected_P = found.log_probs.sum(1).chunk(2)
    return {"ref_chosen_logps": chosen_P, "ref_rejected_logps": rejected_P}
