"""Adapters on a frozen base model: which kinds there are, what PEFT calls them, and where one cannot be used."""

import re
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from components.config import Config, Field, UserError

if TYPE_CHECKING:
    from peft import PeftConfig

Task = Literal["CAUSAL_LM", "SEQ_CLS"]
_ENDS = ("lm_head", "embed_out", "embed_tokens", "embed_in", "wte", "wpe")  # as transformers calls them
_LEAST_STEPS = 3  # of AdaLoRA: one to see gradients in, one to shrink at, one to train what is left


class LoraPlusConfig(Config):
    """Two learning rates. Source: LoRA+, Hayou et al. 2024 (arXiv 2402.12354), sections 4 and 5."""

    ratio: float = Field(16.0, ge=1, description="the B matrices learn this many times as fast as the rest")


class AdaLoraConfig(Config):
    """How ranks shrink. Source: AdaLoRA, Zhang et al. 2023 (arXiv 2303.10512), section 3.3 and equation 12.

    Each layer starts with ``start_rank``; a cubic schedule takes away the least important directions, of all layers
    together, until ``adapter.rank`` a layer are left on average.
    """

    start_rank: int | None = Field(None, ge=2, description="rank of each layer at the start; none: 1.5 x adapter.rank")
    initial: float = Field(0.1, ge=0, lt=1, description="part of the steps before ranks begin to shrink")
    final: float = Field(0.3, ge=0, lt=1, description="part of the steps, at the end, in which ranks stay as they are")
    every: int = Field(1, ge=1, description="optimizer steps between two allocations")
    orthogonality: float = Field(
        0.1, ge=0, description="weight of the mean distance of A A^T and B^T B from the identity (equation 4's penalty)"
    )


class LongLoraConfig(Config):
    """How attention is cut while training. Source: LongLoRA, Chen et al. 2023 (arXiv 2309.12307), section 3.2."""

    group_tokens: int = Field(
        2048, ge=2, multiple_of=2, description="tokens of a group; half of the heads have groups shifted by half of it"
    )


class AdapterConfig(Config):
    """What is trained: a low-rank adapter on frozen weights, or the weights themselves."""

    name: Literal["none", "lora", "rslora", "dora", "loraplus", "adalora", "qlora", "longlora"] = Field(
        "lora",
        description="none trains all weights, lora a low-rank adapter; rslora scales it by alpha / sqrt(rank), dora "
        "learns each row's length too, loraplus has two learning rates, adalora moves rank to where it matters, qlora "
        "has its base in 4 bits, longlora trains embeddings and norms too and cuts attention into shifted groups",
    )
    rank: int = Field(16, ge=1, description="rank of the adapter's matrices; adalora: at the end, on average")
    alpha: float = Field(32.0, gt=0, description="the adapter's output is scaled by alpha / rank")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout before the adapter, while training")
    target_modules: str | tuple[str, ...] = Field(
        "all-linear",
        description="all-linear (but the output head), a list of layers' names ([q_proj, v_proj]), or a pattern of "
        "whole names",
    )
    first_layer: int = Field(
        0, ge=0, description="lowest block to adapt; PPO computes the blocks below once an iteration, not in each pass"
    )
    loraplus: LoraPlusConfig = Field(LoraPlusConfig(), description="only with name=loraplus")
    adalora: AdaLoraConfig = Field(AdaLoraConfig(), description="only with name=adalora")
    longlora: LongLoraConfig = Field(LongLoraConfig(), description="only with name=longlora")

    @model_validator(mode="after")
    def _sections_fit_the_name(self) -> "AdapterConfig":
        for section, default in (
            ("loraplus", LoraPlusConfig()),
            ("adalora", AdaLoraConfig()),
            ("longlora", LongLoraConfig()),
        ):
            if self.name != section and getattr(self, section) != default:
                raise UserError(
                    f"adapter.{section} is set, but adapter.name is {self.name}: set adapter.name={section}"
                )
        if self.name == "none":
            for key in ("dropout", "target_modules"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise UserError(
                        f"adapter.{key} is set, but adapter.name=none trains all weights as they are: drop it"
                    )
        if self.first_layer and self.name in ("none", "longlora"):
            raise UserError(f"adapter.first_layer: adapter.name={self.name} trains weights of every block: set it to 0")
        if self.name == "adalora" and self.start_rank <= self.rank:
            raise UserError(
                f"adapter.adalora.start_rank {self.start_rank} leaves nothing to take away: give more than "
                f"adapter.rank {self.rank}"
            )
        if self.name == "adalora" and self.adalora.initial + self.adalora.final >= 1:
            raise UserError("adapter.adalora.initial + adapter.adalora.final leave no steps to shrink in: lower one")
        return self

    @property
    def start_rank(self) -> int:
        """Return the rank that each layer starts with."""
        if self.name != "adalora":
            return self.rank
        return self.adalora.start_rank or -(-3 * self.rank // 2)

    @property
    def quantizes(self) -> bool:
        """Return whether the base is held in 4 bits while training."""
        return self.name == "qlora"


def check_training(
    config: AdapterConfig, *, zero_stage: int, max_tokens: int | None = None, has_reference: bool = False
) -> None:
    """Refuse what cannot be trained, before anything starts.

    Args:
        zero_stage: of DeepSpeed.
        max_tokens: of the longest row.
        has_reference: the loss compares with log-probabilities that another forward pass has computed.

    Raises:
        UserError: with the reason and the key to change.
    """
    if zero_stage == 3 and config.name in _NOT_SHARDED:
        raise UserError(f"adapter.name={config.name} {_NOT_SHARDED[config.name]}: use deepspeed.stage 0-2")
    if config.quantizes:
        from components.models.nf4 import check_installed

        check_installed()
    shift = config.longlora.group_tokens // 2
    if config.name == "longlora" and has_reference and (max_tokens is None or max_tokens > shift):
        raise UserError(
            f"adapter.name=longlora cuts the attention of rows of more than {shift} tokens while training, and the "
            "reference's log-probabilities are those of whole attention, so no log-ratio would start at 0: set "
            f"adapter.longlora.group_tokens to 2 x max_tokens{f' ({2 * max_tokens})' if max_tokens else ''} or more, "
            "or use longlora in train_sft or train_reward"
        )


def check_blocks(config: AdapterConfig, blocks: int) -> None:
    """Refuse an adapter that begins above a model's last block.

    Raises:
        UserError: with the number of blocks.
    """
    if config.first_layer >= blocks:
        raise UserError(f"adapter.first_layer={config.first_layer}: the model has {blocks} blocks, 0 to {blocks - 1}")


_NOT_SHARDED = {
    "qlora": "keeps 4-bit weights with tables of their own, which ZeRO-3 cannot take apart",
    "adalora": "ranks the directions of whole matrices at each step, of which a ZeRO-3 worker has a shard only",
    "longlora": "trains a copy of the embeddings, which PEFT cannot make of ZeRO-3's shards",
}


def check_on_shared_trunk(config: AdapterConfig) -> None:
    """Refuse the kinds that PPO's shared trunk of several adapters cannot carry.

    Raises:
        UserError: with the reason.
    """
    reasons = {
        "dora": "PPO hands W + BA to its engines, and DoRA divides each row of that by its length",
        "adalora": "PEFT trains one AdaLoRA adapter a model, and PPO's trunk carries the policy's and the critic's",
        "qlora": "PPO merges the policy into its engines' weights, which 4-bit weights would round away",
        "longlora": "its embeddings and norms would be the critic's and the rewards' too, and the engines' attention "
        "is not cut",
    }
    if named := _ends_named(config.target_modules):
        raise UserError(
            f"adapter.target_modules names {named}, which on PPO's trunk is the critic's and the rewards', too, and "
            "which its engines may have tied to the model's other end: name layers of the blocks only"
        )
    if config.name in reasons:
        raise UserError(
            f"adapter.name={config.name} is not for PPO: {reasons[config.name]}; use lora, rslora, loraplus or none"
        )


def adalora_schedule(config: AdapterConfig, steps: int) -> tuple[int, int]:
    """Return (steps before ranks shrink, steps after they are final) of a run of ``steps`` optimizer steps.

    No direction is taken away at the first step: where all outputs are still 0, all are equally unimportant.

    Raises:
        UserError: the run is too short.
    """
    initial, final = max(1, round(config.adalora.initial * steps)), round(config.adalora.final * steps)
    if steps < _LEAST_STEPS or initial >= steps - final:
        raise UserError(
            f"adapter.name=adalora has no step to shrink at in a run of {steps}: use optim.epochs for at least "
            f"{_LEAST_STEPS} steps, and lower adapter.adalora.initial or adapter.adalora.final"
        )
    return initial, final


def peft_config(
    config: AdapterConfig, task: Task = "CAUSAL_LM", *, model: Any = None, steps: int | None = None
) -> "PeftConfig | None":
    """Return PEFT's config of the adapter; none when all weights are trained. SEQ_CLS trains the head, too.

    Args:
        model: what is adapted; longlora needs it, for the names of its norms.
        steps: optimizer steps of the run; adalora needs it, for its schedule.
    """
    if config.name == "none":
        return None
    from peft import AdaLoraConfig as PeftAdaLoraConfig
    from peft import LoraConfig

    targets = config.target_modules if isinstance(config.target_modules, str) else list(config.target_modules)
    common: dict[str, Any] = {
        "task_type": task,
        "lora_alpha": config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": targets,
        "exclude_modules": blocks_under(config.first_layer),
        "bias": "none",
    }
    if config.name == "adalora":
        assert steps is not None, "AdaLoRA's schedule spans the run"
        initial, final = adalora_schedule(config, steps)
        return PeftAdaLoraConfig(
            **common,
            init_r=config.start_rank,
            target_r=config.rank,
            tinit=initial,
            tfinal=final,
            deltaT=config.adalora.every,
            total_step=steps,
            orth_reg_weight=config.adalora.orthogonality,
        )
    if config.name == "longlora":
        assert model is not None, "LongLoRA trains the model's own norms"
        common |= {"modules_to_save": embeddings_and_norms(model), "ensure_weight_tying": _is_tied(model)}
    return LoraConfig(**common, r=config.rank, use_rslora=config.name == "rslora", use_dora=config.name == "dora")


def blocks_under(first: int) -> str | None:
    """Return a pattern of the names of all modules in the blocks under ``first``; none if there are none."""
    return rf"(?:.*\.)?layers\.(?:{'|'.join(map(str, range(first)))})\..*" if first else None


def embeddings_and_norms(model: Any) -> list[str]:
    """Return the names, as PEFT matches them, of the input embedding and of every norm.

    Source: LongLoRA (arXiv 2309.12307), section 3.3: low-rank adapters learn long contexts only with these trained.
    """
    embedding = model.get_input_embeddings()
    names = {
        name for name, module in model.named_modules() if module is embedding or type(module).__name__.endswith("Norm")
    }
    return sorted(names)


def is_target(layer: str, targets: str | tuple[str, ...]) -> bool:
    """Return whether PEFT adapts the layer: by the ends of names, or by a whole name's pattern."""
    if isinstance(targets, str):
        # Weights of a model without its head are stored without the name that the whole model gives them.
        return targets == "all-linear" or any(re.fullmatch(targets, name) for name in (layer, f"model.{layer}"))
    return any(layer == target or layer.endswith(f".{target}") for target in targets)


def _ends_named(targets: str | tuple[str, ...]) -> str | None:
    """Return which of the usual names of heads and embeddings the targets have, if any; all-linear has none."""
    if targets == "all-linear":
        return None
    if isinstance(targets, str):
        return next((end for end in _ENDS if is_target(end, targets)), None)
    return next((target for target in targets if is_target(target, _ENDS)), None)


def _is_tied(model: Any) -> bool:
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight
