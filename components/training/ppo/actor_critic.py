"""What PPO trains: a policy, and a critic beside it, on it, or none.

Shapes: N answer tokens, H hidden.
"""

import contextlib
from typing import Any, Literal

import torch

from components.models.output_head import output_head
from components.models.packing import Packed, hidden_states
from components.training.completion_head import score_tokens
from components.training.ppo.trunk import wearing

POLICY, CRITIC = "policy", "critic"  # the adapters' names
CriticStart = Literal["reward", "fresh", "policy"]


class ActorCritic(torch.nn.Module):
    """What is trained: a policy, and a critic unless advantages need none; one module, for one optimizer."""

    def __init__(self, policy: Any, critic: CriticStart | None, *, shared: bool, own_critic: Any = None) -> None:
        """Wrap the models.

        Args:
            critic: none for no critic.
            shared: whether policy and critic are adapters on one trunk.
            own_critic: the critic's backbone where it has one of its own.
        """
        super().__init__()
        self.policy = policy
        self.shared, self.one_pass = shared, critic == "policy"
        self.own_critic = own_critic
        size = policy.config.get_text_config().hidden_size
        self.value_head = torch.nn.Linear(size, 1, dtype=policy.dtype) if critic is not None else None
        if self.value_head is not None:  # a critic that knows nothing explains none of the variance, and adds none
            torch.nn.init.zeros_(self.value_head.weight)
            torch.nn.init.zeros_(self.value_head.bias)

    def forward(
        self,
        packed: Packed,
        labels_N: torch.Tensor,
        temperature: float,
        *,
        entropy_gradient: bool = False,
        train_policy: bool = True,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Return log-probabilities and entropies of the policy, and values, each [N]; none for what is not asked."""
        if not train_policy:
            return None, None, self.value(packed, reaches_policy=False)
        hidden_N = self._policy_states(packed)
        head = output_head(self.policy)
        figures = score_tokens(head, hidden_N, labels_N, temperature=temperature, entropy_gradient=entropy_gradient)
        values = self._read_value(hidden_N) if self.one_pass else self.value(packed)
        return figures[0], figures[1], values

    def value(self, packed: Packed, *, reaches_policy: bool = True) -> torch.Tensor | None:
        """Return what the critic expects before each token [N], or none where there is no critic.

        Args:
            reaches_policy: whether the values' gradient goes on into a policy that they are read from.
        """
        if self.value_head is None:
            return None
        if self.one_pass:
            hidden_N = self._policy_states(packed)
            return self._read_value(hidden_N if reaches_policy else hidden_N.detach())
        with self._as(CRITIC):
            return self._read_value(hidden_states(self.own_critic or self.policy, packed)[packed.predicts_N])

    def _policy_states(self, packed: Packed) -> torch.Tensor:
        """Return the policy's outputs [N, H] that predict each token."""
        with self._as(POLICY):
            return hidden_states(self.policy, packed)[packed.predicts_N]

    def _read_value(self, hidden_N: torch.Tensor) -> torch.Tensor:
        assert self.value_head is not None
        # In float32 whatever the weights are: in bfloat16 a value near 2 would move in steps of 0.016.
        head = self.value_head
        return torch.nn.functional.linear(hidden_N.float(), head.weight.float(), head.bias.float()).squeeze(-1)

    def _as(self, name: str | None) -> contextlib.AbstractContextManager[None]:
        return wearing(self.policy, name) if self.shared else contextlib.nullcontext()
