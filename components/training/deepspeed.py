"""The one place that knows DeepSpeed: its config dict, which TRL and accelerate are handed as it is."""

import contextlib
import io
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from components.config import Config, Field


class DeepSpeedConfig(Config):
    """How the state of training is sharded over the workers."""

    stage: Literal[0, 1, 2, 3] = Field(
        2, description="ZeRO stage: 0 shards nothing, 1 optimizer state, 2 and gradients, 3 and weights"
    )
    param_persistence_threshold: int = Field(
        100_000, ge=0, description="stage 3: weights of fewer numbers stay whole on every worker; 0 divides all"
    )
    offload: bool = Field(False, description="keep optimizer state (stage 3: and weights) in CPU memory; for GPUs")

    def shards(self, workers: int) -> dict[str, int]:
        """Return among how many of the workers the stage divides what, as ``memory.training_bytes`` takes it."""
        divided = {"shards": 1, "gradient_shards": 2, "weight_shards": 3}  # the stage from which on each is
        return {name: workers if self.stage >= stage else 1 for name, stage in divided.items()}

    def of_own_loop(self) -> "DeepSpeedConfig":
        """Return these settings as ``initialize`` needs them: at stage 1, or higher.

        Stage 0 neither tells the gradient's norm nor skips a step that is not finite; stage 1 with one worker shards
        nothing either.
        """
        return self.model_copy(update={"stage": max(1, self.stage)})


def join(gpu: bool) -> None:
    """Tell DeepSpeed of the process group that Ray Train has made.

    A model that is loaded for ZeRO-3 is divided while it loads, among the workers that DeepSpeed knows by then.
    """
    import deepspeed

    # Only tensor-parallel inference calls this C++ op, and building it takes two cores a minute in each environment.
    if not gpu:
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if gpu else "gloo", auto_mpi_discovery=False, verbose=False)


@contextlib.contextmanager
def gathered(weight: Any) -> Iterator[bool]:
    """Have a weight whole while the body runs, and what is written to it kept; tell whether it was divided."""
    import deepspeed

    if not hasattr(weight, "ds_id"):
        yield False
        return
    with deepspeed.zero.GatheredParameters([weight], modifier_rank=0):
        yield True


def build(config: DeepSpeedConfig, *, bf16: bool, max_grad_norm: float) -> dict[str, Any]:
    """Return the DeepSpeed config dict; batch sizes are ``auto``: the trainer fills in its own.

    With ``bf16`` the weights are bfloat16, but DeepSpeed keeps a float32 master copy of whatever is trained
    and rounds it after each step, so an update smaller than a bfloat16 digit is not lost but adds up. The passes of
    a step are summed in float32, too, from stage 1 on: in bfloat16 a sum of 256 equal gradients grows no further.
    """
    zero: dict[str, Any] = {"stage": config.stage}
    # At DeepSpeed's own 500 million numbers each GPU holds a gigabyte or two for that alone.
    zero |= {"reduce_bucket_size": 50_000_000, "allgather_bucket_size": 50_000_000}
    if config.stage in (1, 2):
        zero |= {"contiguous_gradients": True, "overlap_comm": False}
    if config.stage == 3:
        zero |= {"stage3_gather_16bit_weights_on_model_save": True, "overlap_comm": False}
        zero["stage3_param_persistence_threshold"] = config.param_persistence_threshold
    if config.offload and config.stage > 0:
        zero["offload_optimizer"] = {"device": "cpu"}
        if config.stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    return {
        "zero_optimization": zero,
        "bf16": {"enabled": bf16},
        # Stage 0 takes no other format than the weights'.
        "data_types": {"grad_accum_dtype": "fp32" if bf16 and config.stage > 0 else None},
        "fp16": {"enabled": False},
        "gradient_clipping": max_grad_norm,
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
        "wall_clock_breakdown": False,
    }


def initialize(
    module: Any, optimizer: Any, config: DeepSpeedConfig, *, bf16: bool, max_grad_norm: float, passes: int
) -> Any:
    """Return DeepSpeed's engine for a loop of our own; ``passes`` backward passes make a step."""
    import deepspeed
    import torch.distributed as dist

    settings = build(config, bf16=bf16, max_grad_norm=max_grad_norm)
    settings |= {"train_micro_batch_size_per_gpu": 1, "gradient_accumulation_steps": passes}
    settings["train_batch_size"] = passes * dist.get_world_size()
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
    return engine


def around_step(engine: Any, before: Callable[[], None], after: Callable[[], None]) -> None:
    """Have ``before`` and ``after`` called around each of the engine's optimizer steps.

    accelerate takes the step inside of the backward pass, so that a trainer's own hooks come when gradients are gone.
    """
    plain = engine.step

    def step(*args: Any, **kwargs: Any) -> None:
        before()
        plain(*args, **kwargs)
        after()

    engine.step = step


def write_master(weight: Any, kept: Any) -> None:
    """Set to 0, in the float32 copy that the optimizer updates, the values that ``kept`` (True: stays) leaves out."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_set_full_fp32_param

    master = safe_get_full_fp32_param(weight)
    if master is not None:  # without sharding and in float32, the weight is its own master
        safe_set_full_fp32_param(weight, master * kept)


def undivide(checkpoint: Path) -> None:
    """Write beside DeepSpeed's shards of a checkpoint the form that any number of workers can load.

    Source: Lian et al. 2024, Universal Checkpointing (https://arxiv.org/abs/2406.18820), as DeepSpeed has it.
    """
    import deepspeed.checkpoint.ds_to_universal as universal

    (shards,) = (folder for folder in checkpoint.glob("global_step*") if not folder.name.endswith("_universal"))
    whole = shards.with_name(f"{shards.name}_universal")
    shutil.rmtree(whole, ignore_errors=True)  # cut off by a kill
    wanted = Namespace(
        input_folder=str(shards),
        output_folder=str(whole),
        num_extract_workers=1,  # more would be forked from a process that has threads
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):  # it tells each file
        universal.main(wanted)
