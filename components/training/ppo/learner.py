"""The optimizer of a PPO run: one DeepSpeed engine over everything that is trained."""

import math
from pathlib import Path
from typing import Any

import torch

from components.training import deepspeed
from components.training.deepspeed import DeepSpeedConfig
from components.training.ppo.actor_critic import ActorCritic
from components.training.ppo.settings import PpoOptimConfig

_BETAS = (0.9, 0.999)  # of Adam's means of the gradient and of its square


class DeepSpeedLearner:
    """Accumulates gradients over the passes of a step, updates, and keeps its state in checkpoints."""

    def __init__(
        self,
        module: ActorCritic,
        optim: PpoOptimConfig,
        sharding: DeepSpeedConfig,
        *,
        bf16: bool,
        passes: int,
        ratio: float = 1.0,
    ) -> None:
        """Hand the trained weights to DeepSpeed.

        Args:
            passes: backward passes of each step.
            ratio: how many times as fast the B matrices of adapters learn.
        """
        self.module, self.optim = module, optim
        groups = groups_of(module, optim, ratio)
        self.rates: list[tuple[bool, float]] = [(group.pop("critic"), group["lr"]) for group in groups]
        self.engine = deepspeed.initialize(
            module,
            torch.optim.AdamW(groups, betas=_BETAS, weight_decay=optim.weight_decay),
            sharding.of_own_loop(),
            bf16=bf16,
            max_grad_norm=optim.max_grad_norm,
            passes=passes,
        )

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of one pass; with the last of a step, the workers' are averaged."""
        self.engine.backward(loss, scale_wrt_gas=False)
        if not self.engine.is_gradient_accumulation_boundary():
            self.engine.step()

    def step(self, progress: float, policy: float = 1.0) -> float:
        """Update the weights and return the norm of the gradient before clipping; not finite: nothing was updated.

        The policy's rate is ``policy`` times what the schedule says.
        """
        for group, (is_critic, rate) in zip(self.engine.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * schedule(self.optim, progress) * (1.0 if is_critic else policy)
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    @property
    def rate(self) -> float:
        """The policy's learning rate in the last step."""
        return float(self.engine.optimizer.param_groups[0]["lr"])

    def save(self, folder: Path) -> None:
        """Write what is trained, and the optimizer's state; every worker takes part."""
        self.engine.save_checkpoint(str(folder), tag="engine", exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """Go on from ``save``'s folder."""
        self.engine.load_checkpoint(str(folder), tag="engine", load_module_strict=False)


def groups_of(module: torch.nn.Module, optim: PpoOptimConfig, ratio: float = 1.0) -> list[dict[str, Any]]:
    """Return the trained weights with their peak learning rates: the policy's, then the ``critic``'s; with a ratio
    other than 1, each without and with the B matrices, which learn ``ratio`` times as fast.

    Source: LoRA+ (arXiv 2402.12354), section 4: B wants a larger rate than A, the wider the model the more.
    """
    found: dict[tuple[bool, bool], list[torch.nn.Parameter]] = {}
    for name, weight in module.named_parameters():
        if weight.requires_grad:
            is_critic = name.startswith(("value_head", "own_critic")) or ".critic." in name
            found.setdefault((is_critic, ratio != 1 and ".lora_B." in name), []).append(weight)
    rates = (optim.learning_rate, optim.critic_learning_rate)
    return [
        {"params": weights, "lr": rates[is_critic] * (ratio if is_b else 1), "critic": is_critic}
        for (is_critic, is_b), weights in sorted(found.items(), key=lambda item: item[0])
    ]


def schedule(optim: PpoOptimConfig, progress: float) -> float:
    """Return the part of the peak learning rate at this part (0 to 1) of the run; the first step is never 0."""
    if progress < optim.warmup:
        return max(progress / optim.warmup, 0.1)
    after = (progress - optim.warmup) / max(1 - optim.warmup, 1e-9)
    if optim.schedule == "linear":
        return max(1 - after, 0.02)
    if optim.schedule == "cosine":
        return max(0.5 * (1 + math.cos(math.pi * after)), 0.02)
    return 1.0


def rate_after_idle(step: int, idle: int) -> float:
    """Return the factor of a rate with which Adam learns as if its first ``idle`` steps, without gradient, were none.

    Adam has counted them (``step`` begins at 0), so that it holds its means for settled: the first gradient after many
    such steps would move the weights 3.2 times as far as the first of all does. Up to there the rate is 0, and so is
    the weights' decay.

    Source: Kingma & Ba 2015 (https://arxiv.org/abs/1412.6980), section 3, the correction of the means' bias.
    """
    if step < idle:
        return 0.0

    def correction(count: int) -> float:
        first, second = (1 - beta**count for beta in _BETAS)
        return math.sqrt(second) / first

    return correction(step - idle + 1) / correction(step + 1)
