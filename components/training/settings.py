"""The sections of a training workflow's YAML, and what follows from them: batch shape and trainer arguments."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from components.config import Config, Field, Unkeyed, UserError, WorkflowConfig
from components.models.adapters import AdapterConfig, check_training
from components.training.deepspeed import DeepSpeedConfig, build


class ScaleConfig(Config):
    """How many Ray Train workers train, and on what."""

    workers: int = Field(1, ge=1, description="Ray Train workers, one model shard or replica each")
    min_workers: int | None = Field(
        None, ge=1, description="train on with as few when hosts are lost, with more when there is room; none: never"
    )
    resize_s: float = Field(60.0, gt=0, description="with min_workers: seconds between two looks for room for more")
    cpus_per_worker: int | None = Field(None, ge=1, description="cores of a worker; none shares out the cluster's")
    gpu: bool = Field(False, description="give each worker a GPU")
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"] = Field(
        "PACK", description="workers on as few hosts as they fit on, or on many; STRICT_ waits until it is just so"
    )
    max_failures: int = Field(2, ge=0, description="how often dead workers are replaced, from the last checkpoint")
    wait_s: Annotated[float, Unkeyed()] = Field(
        1800.0, gt=0, description="seconds that training waits for room after it has lost a host; then it ends"
    )

    @property
    def fewest(self) -> int:
        """With how many workers training goes on at least."""
        return self.min_workers or self.workers

    @property
    def count(self) -> str:
        """How many workers train, as a plan says it."""
        return f"{self.min_workers} to {self.workers}" if self.min_workers else str(self.workers)


class AdamWConfig(Config):
    """What updates the weights, however rows become steps."""

    learning_rate: float = Field(5e-4, gt=0, description="peak learning rate of AdamW")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        "linear", description="learning rate after its warm-up"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="part of the steps in which the learning rate rises")
    weight_decay: float = Field(0.0, ge=0, description="decoupled weight decay of AdamW")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are scaled down to this norm")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="number format of the weights; auto is bfloat16 where the hardware multiplies it"
    )
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, more time")


class OptimConfig(AdamWConfig):
    """How the weights are updated."""

    epochs: float = Field(1.0, gt=0, description="passes over the training split; rounded to whole steps")
    batch_size: int = Field(8, ge=1, description="rows (pairs) of one optimizer step, over all workers")
    micro_batch_size: int = Field(4, ge=1, description="rows (pairs) of one forward pass of one worker")
    length_window: int = Field(
        8,
        ge=1,
        description="batches among which rows are dealt out by length, so that little is padded; 1 leaves it to chance "
        "which rows are a batch",
    )


class SaveConfig(Config):
    """When checkpoints are written; a rerun of the same step goes on from the last complete one."""

    every: int = Field(10, ge=1, description="optimizer steps between two checkpoints")
    keep: int = Field(2, ge=2, description="checkpoints kept; the one being written is one of them")


class TrainingConfig(WorkflowConfig):
    """What every training workflow's configuration has."""

    drops_out: ClassVar[bool] = False  # whether the loss can be taken with dropout
    max_tokens: int = Field(1024, ge=8, description="rows with more tokens (a pair: on a side) are dropped and counted")
    eval_rows: int = Field(32, ge=0, description="rows of split 'test' that are measured at the end")
    adapter: AdapterConfig = Field(AdapterConfig(), description="what is trained")
    optim: OptimConfig = Field(OptimConfig(), description="how the weights are updated")
    deepspeed: DeepSpeedConfig = Field(DeepSpeedConfig(), description="how training is sharded")
    scale: ScaleConfig = Field(ScaleConfig(), description="how many workers train, and on what")
    save: SaveConfig = Field(SaveConfig(), description="when checkpoints are written")
    full_steps: int = Field(
        0,
        ge=0,
        description="steps of full fine-tuning that are run, and not kept, after an adapter's training, to measure "
        "what it saved; 0: none",
    )


@dataclass(frozen=True)
class Recipe:
    """How a model is trained, whatever the loss.

    Raises:
        UserError: the batch cannot be shared out over the workers, the adapter cannot be sharded so, or there is none
            to compare with full fine-tuning.
    """

    adapter: AdapterConfig
    optim: OptimConfig
    deepspeed: DeepSpeedConfig
    scale: ScaleConfig
    save: SaveConfig
    seed: int
    full_steps: int = 0

    def __post_init__(self) -> None:
        group_sizes(self.optim, self.scale)
        self._check_full_steps()
        unlike = self.optim.weight_decay > 0 or self.adapter.name == "loraplus"
        if self.scale.min_workers and self.deepspeed.stage == 3 and unlike:
            raise UserError(
                "scale.min_workers with deepspeed.stage=3 would give all weights the learning rate and decay of the "
                "first ones when the number of workers changes: use stage 0-2, or neither weight_decay nor loraplus"
            )
        check_training(self.adapter, zero_stage=self.deepspeed.stage)

    def _check_full_steps(self) -> None:
        if self.full_steps and self.adapter.name == "none":
            raise UserError(
                f"full_steps={self.full_steps} measures what an adapter saves, but adapter.name=none trains all "
                "weights: choose an adapter, or set full_steps=0"
            )
        if self.full_steps == 1:
            raise UserError("full_steps=1: the first step also sets things up and is not counted, so set 2 or more")

    @classmethod
    def of(cls, config: TrainingConfig) -> "Recipe":
        """Return the recipe in a training workflow's configuration.

        Raises:
            UserError: as the class; or the adapter does not go with the loss or its reference; or there would be no
                dropout where it is asked for.
        """
        if config.adapter.dropout and not config.drops_out:
            raise UserError(
                "adapter.dropout acts in train_sft only: preference and reward losses compare log-probabilities and "
                "rewards, which dropout would blur, and TRL turns it off there: set it to 0"
            )
        scores = "scoring" in type(config).model_fields  # a reference, for a loss that compares with it
        has_reference = scores and getattr(getattr(config, "loss", None), "has_reference", True)
        check_training(
            config.adapter,
            zero_stage=config.deepspeed.stage,
            max_tokens=config.max_tokens,
            has_reference=has_reference,
        )
        reference = getattr(config, "reference", None)  # of a loss that can have one that moves
        if reference is not None:
            reference.check(config.loss, config.adapter, zero_stage=config.deepspeed.stage)  # type: ignore[attr-defined]
        sections = (config.adapter, config.optim, config.deepspeed, config.scale, config.save)
        return cls(*sections, config.seed, config.full_steps)

    @property
    def output(self) -> str:
        """What training makes: the name of the output and of its folder."""
        return "model" if self.adapter.name == "none" else "adapter"


def accumulation(optim: OptimConfig, workers: int) -> int:
    """Return how many forward passes of each worker make one optimizer step.

    Raises:
        UserError: the batch cannot be shared out evenly.
    """
    at_once = optim.micro_batch_size * workers
    if optim.batch_size % at_once:
        raise UserError(
            f"optim.batch_size {optim.batch_size} is not a multiple of optim.micro_batch_size "
            f"{optim.micro_batch_size} x scale.workers {workers}: change one of the three"
        )
    return optim.batch_size // at_once


def group_sizes(optim: OptimConfig, scale: ScaleConfig) -> tuple[int, ...]:
    """Return the numbers of workers that may train: from ``scale.min_workers`` on, those that share the batch out.

    Raises:
        UserError: the batch cannot be shared out evenly over the most or the fewest, or these are the wrong way round.
    """
    accumulation(optim, scale.workers)
    if scale.min_workers is None:
        return (scale.workers,)
    if scale.min_workers > scale.workers:
        raise UserError(f"scale.min_workers {scale.min_workers} is more than scale.workers {scale.workers}")
    if scale.placement.startswith("STRICT_"):
        raise UserError(
            f"scale.placement={scale.placement} may leave no place for a group that grows: use PACK or SPREAD"
        )
    groups = optim.batch_size // optim.micro_batch_size
    if groups % scale.min_workers:
        raise UserError(
            f"scale.min_workers {scale.min_workers} workers cannot share out evenly {groups} forward passes "
            f"(optim.batch_size {optim.batch_size} by optim.micro_batch_size {optim.micro_batch_size}): change one"
        )
    return tuple(size for size in range(scale.min_workers, scale.workers + 1) if groups % size == 0)


def trainer_arguments(recipe: Recipe, *, bf16: bool, steps: int, checkpoints: Path) -> dict[str, Any]:
    """Return the keyword arguments that TRL's SFTConfig and DPOConfig share.

    The rows arrive in batch order, so the sampler is sequential and the step alone says where to go on.
    """
    optim, gpu = recipe.optim, recipe.scale.gpu
    return {
        "output_dir": str(checkpoints),
        "max_steps": steps,
        "per_device_train_batch_size": optim.micro_batch_size,
        "per_device_eval_batch_size": optim.micro_batch_size,
        "gradient_accumulation_steps": accumulation(optim, recipe.scale.workers),
        "learning_rate": optim.learning_rate,
        "lr_scheduler_type": optim.schedule,
        "warmup_steps": round(optim.warmup * steps),
        "weight_decay": optim.weight_decay,
        "max_grad_norm": optim.max_grad_norm,
        "optim": "adamw_torch_fused",  # one pass over memory for each step, not one for each operation
        "bf16": bf16,
        "use_cpu": not gpu,
        "gradient_checkpointing": optim.gradient_checkpointing,
        "deepspeed": build(recipe.deepspeed, bf16=bf16, max_grad_norm=optim.max_grad_norm),
        "train_sampling_strategy": "sequential",
        "dataloader_pin_memory": gpu,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would log a loss that is not finite as 0, and training would go on
        "save_strategy": "steps",
        "save_steps": recipe.save.every,
        "save_total_limit": recipe.save.keep,
        "eval_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "seed": recipe.seed,
        "max_length": None,
    }


def weight_dtype(dtype: str, gpu: bool) -> str:
    """Return the number format of the weights while training: ``auto`` is resolved for the workers' hardware."""
    if dtype != "auto":
        return dtype
    if gpu:
        return "bfloat16"
    from components.models.load import cpu_dtype

    return str(cpu_dtype()).removeprefix("torch.")
