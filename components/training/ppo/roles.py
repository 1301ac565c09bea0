"""The models of a PPO run: policy, critic, reference and rewards, on one frozen trunk or each with its own.

With an adapter, all of them are the same trunk: the reference is the trunk itself, the others are adapters on it,
so that a run takes about one model's memory. Without one (``adapter.name: none``) policy and critic are whole
models that are trained, and the reference is a third that is not. Either way the critic may be no more than a
head on the policy, which then learns both in one pass.

Shapes: p prompts of one forward pass, K answers to each, N answer tokens in the order of [K, p, R], H hidden.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from components.models import fused_lora
from components.models.adapter_base import is_adapter
from components.models.adapters import AdapterConfig, peft_config
from components.models.load import load_model
from components.models.output_head import check_head, output_head
from components.models.packing import Packed, can_share_prompt, collate, hidden_states, pack
from components.models.rewards import RewardInfo, RewardModel
from components.models.trunk_split import below, can_split, pad
from components.training.completion_head import score_tokens
from components.training.ppo.actor_critic import CRITIC, POLICY, ActorCritic, CriticStart
from components.training.ppo.trunk import RewardOnTrunk, load_adapter, only_trainable, wearing

logger = logging.getLogger(__name__)


class Roles:
    """All models of a run, and the passes over a group of prompts with their answers."""

    def __init__(
        self,
        model: Path,
        adapter: AdapterConfig,
        rewards: Sequence[Path],
        *,
        critic: CriticStart | None,
        dtype: str,
        device: str,
        base_digest: str,
    ) -> None:
        """Load everything.

        Args:
            critic: where the critic starts, or none for no critic.
            base_digest: digest of ``model``: a reward adapter on it shares the trunk, another is a model of its own.
        """
        self.device = device
        policy: Any = load_model(model, dtype).to(device)  # type: ignore[arg-type]
        check_head(policy)
        self.peft: Any | None = None
        self.reference: Any | None = None
        if adapter.name != "none":
            from peft import get_peft_model

            self.peft = get_peft_model(policy, peft_config(adapter), adapter_name=POLICY)  # changes it in place
        else:
            self.reference = load_model(model, dtype).to(device)  # type: ignore[arg-type]
        self.trunk_rewards: list[RewardOnTrunk] = []
        self.own_rewards: list[RewardModel] = []
        for number, folder in enumerate(rewards):
            if self.peft is not None and is_adapter(folder) and RewardInfo.read(folder).base_digest == base_digest:
                self.trunk_rewards.append(RewardOnTrunk(self.peft, f"reward{number}", folder))
            else:
                self.own_rewards.append(RewardModel(folder, dtype=dtype, device=device))
        self.starts_as = self.trunk_rewards[0] if critic == "reward" and self.trunk_rewards else None
        assert critic != "reward" or self.starts_as is not None  # job.check_rewards has seen to it
        own_critic = self._critic(model, dtype) if critic in ("reward", "fresh") else None
        if self.peft is not None:
            only_trainable(policy, {POLICY, CRITIC})
            fused_lora.attach(policy)
        shared = self.peft is not None
        self.module = ActorCritic(policy, critic, shared=shared, own_critic=own_critic).to(device)
        self._start_head()
        self.share = can_share_prompt(policy)
        # A critic that starts as a reward model has that one's adapter, which may begin below the policy's.
        begins = [adapter.first_layer, *([self.starts_as.first_layer] if self.starts_as else [])]
        self.first_layer = self._first_layer(policy, min(begins))

    def _first_layer(self, policy: Any, first: int) -> int:
        """Return the lowest layer that training's passes must compute, if ``first`` is the lowest that may change."""
        if self.peft is None or not first:
            return 0
        if can_split(policy, first):
            return first
        logger.warning("%s cannot be computed in parts: every pass computes all layers", type(policy).__name__)
        return 0

    def _critic(self, model: Path, dtype: str) -> Any | None:
        """Put the critic's adapter on the trunk, or return the critic's own backbone where there is no trunk."""
        if self.peft is None:
            own: Any = load_model(model, dtype).to(self.device)  # type: ignore[arg-type]
            return own
        if self.starts_as is not None:
            load_adapter(self.peft, CRITIC, self.starts_as.folder, self.starts_as.state)
        else:
            self.peft.add_adapter(CRITIC, self.peft.peft_config[POLICY])
        return None

    def _start_head(self) -> None:
        """Let a critic that starts as a reward model foresee that reward, normalised as it is."""
        if self.starts_as is None or self.module.value_head is None:
            return
        mean, std = (torch.tensor(figures) for figures in (self.starts_as.info.mean, self.starts_as.info.std))
        weight = (self.starts_as.head_KH.cpu() / std[:, None]).mean(0, keepdim=True)
        self.module.value_head.weight.data.copy_(weight)
        self.module.value_head.bias.data.copy_(-(mean / std).mean(0, keepdim=True))

    def batch(
        self,
        prompts: Sequence[Sequence[int]],
        answers: Sequence[Sequence[Sequence[int]]],
        below: Sequence[torch.Tensor] = (),
    ) -> tuple[Packed, Any]:
        """Return what one forward pass reads, and the answers' tokens [N].

        Args:
            below: of each prompt, what ``learn_below`` said of it; passes then start from there.
        """
        count = len(answers[0])
        rows = [(prompt, own[k]) for k in range(count) for prompt, own in zip(prompts, answers, strict=True)]
        batch = {name: value.to(self.device) for name, value in collate(rows, 0).items()}
        labels_N = batch["input_ids_BT"][batch["completion_BT"]]
        share = count if count > 1 and self.share else 1
        packed = pack(**batch, dtype=self.module.policy.dtype, share=share)
        if below:
            packed.below_BTH, packed.first_layer = pad(below, packed.input_ids.shape[1]), self.first_layer
        return packed, labels_N

    def learn_below(
        self, packed: Packed, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]]
    ) -> list[torch.Tensor]:
        """Let passes over ``packed`` start above the layers that no adapter changes.

        Returns:
            What those layers made of each prompt and its answers, [T, H] each; nothing where every layer may change
            or where a prompt's answers are sequences of their own.
        """
        if not self.first_layer or len(packed.input_ids) != len(prompts):
            return []
        packed.below_BTH = below(self.module.policy, packed, self.first_layer)
        packed.first_layer = self.first_layer
        lengths = [len(prompt) + sum(map(len, own)) for prompt, own in zip(prompts, answers, strict=True)]
        return [row[:length].clone() for row, length in zip(packed.below_BTH, lengths, strict=True)]

    def reference_logprobs(self, packed: Packed, labels_N: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return the log-probabilities [N] of the model that the policy started from."""
        model = self.reference or self.module.policy
        with wearing(model, None) if self.reference is None else contextlib.nullcontext():
            hidden_N = hidden_states(model, packed)[packed.predicts_N]
            return score_tokens(output_head(model), hidden_N, labels_N, temperature=temperature)[0]

    def policy_weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the policy's weights as the engine knows them: adapters merged in, tied weights once."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        model, tied = self.module.policy, getattr(self.module.policy.config, "tie_word_embeddings", False)
        merged: dict[str, torch.Tensor] = {}
        for name, layer in model.named_modules():
            if isinstance(layer, BaseTunerLayer) and POLICY in cast(Any, layer).scaling:
                delta = cast(Any, layer).get_delta_weight(POLICY)
                base = cast(Any, layer.get_base_layer()).weight
                merged[f"{name}.base_layer.weight"] = (base.float() + delta.float()).to(base.dtype)
        for name, weight in model.named_parameters():
            if ".lora_" in name or (tied and name.startswith("lm_head")):
                continue
            yield name.replace(".base_layer.", "."), merged.get(name, weight).detach()

    def save(self, folder: Path, tokenizer: Any) -> None:
        """Write the policy to ``folder``: the adapter, or the whole model."""
        if self.peft is None:
            self.module.policy.save_pretrained(folder)
        else:
            self.peft.save_pretrained(folder, selected_adapters=[POLICY])
            for path in (folder / POLICY).iterdir():
                path.rename(folder / path.name)
            (folder / POLICY).rmdir()
            (folder / "README.md").unlink(missing_ok=True)
        tokenizer.save_pretrained(folder)
