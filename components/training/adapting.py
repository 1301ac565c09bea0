"""What an adapter kind needs of a TRL trainer: its base loaded, its weights attached, its optimizer, its schedule.

Each loop calls ``load``, ``configure`` and ``attach``, in this order; for plain LoRA they do next to nothing.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.models.adapters import AdapterConfig, Task, peft_config

if TYPE_CHECKING:
    from peft import PeftConfig

_STATE = "adalora.pt"


def load(payload: dict[str, Any]) -> Any:
    """Return the causal language model of a loop's payload, ready to train; its linear layers in 4 bits for QLoRA."""
    from components.models.load import load_model
    from components.models.output_head import check_head

    model: Any = load_model(payload["model"], payload["dtype"], nf4=AdapterConfig(**payload["adapter"]).quantizes)
    check_head(model)
    return model.train()


def configure(model: Any, payload: dict[str, Any], task: Task = "CAUSAL_LM") -> "PeftConfig | None":
    """Return what the trainer adapts the model with; LongLoRA's attention is cut from here on."""
    from components.models import shifted

    config = AdapterConfig(**payload["adapter"])
    if config.name == "longlora":
        shifted.attach(model, config.longlora.group_tokens)
    return peft_config(config, task, model=model, steps=payload["arguments"]["max_steps"])


def attach(trainer: Any, payload: dict[str, Any]) -> None:
    """Give the trainer the fast way to compute LoRA, LoRA+'s optimizer, and AdaLoRA's penalty and schedule."""
    from components.models import fused_lora

    config = AdapterConfig(**payload["adapter"])
    fused_lora.attach(trainer.model)
    if config.quantizes and payload["dtype"] == "float32":
        _full_precision(trainer.model)
    if config.name == "loraplus":
        _two_learning_rates(trainer, config.loraplus.ratio)
    if config.name == "adalora":
        _penalise(trainer, config.adalora.orthogonality)
        _allocate(trainer)


def _full_precision(model: Any) -> None:
    """Undo TRL's rounding of a QLoRA adapter to bfloat16 where the configuration says float32."""
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data = weight.data.float()


def _two_learning_rates(trainer: Any, ratio: float) -> None:
    """Let the trainer make its optimizer with B matrices that learn ``ratio`` times as fast.

    The trainer makes it again when it sets DeepSpeed up, so that its method is replaced rather than its optimizer.
    """

    def create_optimizer(model: Any = None) -> Any:
        from peft.optimizers import create_loraplus_optimizer

        if trainer.optimizer is None:
            kind, settings = trainer.get_optimizer_cls_and_kwargs(trainer.args, trainer.model)
            settings = {**settings, "loraplus_weight_decay": trainer.args.weight_decay}
            trainer.optimizer = create_loraplus_optimizer(
                model or trainer.model, kind, loraplus_lr_ratio=ratio, **settings
            )
            groups = trainer.optimizer.param_groups
            groups[:] = [group for group in groups if group["params"]]  # DeepSpeed cannot shard an empty one
        return trainer.optimizer

    trainer.create_optimizer = create_optimizer


def _penalise(trainer: Any, weight: float) -> None:
    """Add the gradient of AdaLoRA's penalty, but not its value, to the trainer's loss.

    The penalty keeps directions apart, so that taking one away takes away what it says. Losses stay comparable, and
    the checks of the first one hold. Source: AdaLoRA (arXiv 2303.10512), equation 4; like its authors' program, the
    mean of the distances, not the sum of their squares.
    """
    if not weight:
        return
    plain = trainer.compute_loss

    def compute_loss(model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
        found = plain(model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch)
        loss, *rest = found if return_outputs else (found,)
        if model.training:
            penalty = weight * orthogonality(trainer.model)
            if _counts_whole(trainer, num_items_in_batch):  # else the trainer divides the loss itself
                penalty = penalty / trainer.current_gradient_accumulation_steps
            loss = loss + penalty - penalty.detach()
        return (loss, *rest) if return_outputs else loss

    trainer.compute_loss = compute_loss


def _counts_whole(trainer: Any, num_items_in_batch: Any) -> bool:
    """Return whether a pass's loss is its part of the whole step's already, as transformers' training_step decides."""
    if trainer.loss_is_scaled_for_ga is not None:
        return trainer.loss_is_scaled_for_ga
    return (trainer.model_accepts_loss_kwargs and num_items_in_batch is not None) or (
        trainer.compute_loss_func is not None
    )


def orthogonality(model: Any) -> Any:
    """Return the mean Frobenius distance of A A^T and of B^T B from the identity, over the adapter's matrices."""
    import torch

    distances = []
    for name, weight in model.named_parameters():
        if ".lora_A." in name or ".lora_B." in name:
            product = weight @ weight.T if ".lora_A." in name else weight.T @ weight
            distances.append(torch.linalg.matrix_norm((product - torch.eye(len(product)).to(product)).float()))
    return torch.stack(distances).mean()


def _allocate(trainer: Any) -> None:
    """Run AdaLoRA's schedule at each optimizer step, and keep what it knows in checkpoints."""
    from transformers import TrainerCallback

    from components.training.deepspeed import around_step

    tuner = trainer.model.base_model

    class Allocation(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if state.global_step and (folder / _STATE).is_file():
                _restore(tuner, folder / _STATE, args.device)
            assert trainer.deepspeed is not None, "AdaLoRA's schedule hangs on DeepSpeed's step"
            around_step(
                trainer.deepspeed,
                lambda: tuner.update_and_allocate(state.global_step + 1),  # reads gradients, which a step clears
                lambda: _prune(tuner, state.global_step + 1),
            )

        def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                _keep(tuner, Path(args.output_dir) / f"checkpoint-{state.global_step}" / _STATE)

    # First in the row, as the checkpoint is declared whole by a later callback.
    trainer.callback_handler.callbacks.insert(0, Allocation())


def _prune(tuner: Any, step: int) -> None:
    """Take away again, now that the optimizer has moved them, the directions that this step has taken away.

    DeepSpeed keeps its own float32 copy of each weight, from which it writes the weight at each step.
    """
    from components.training.deepspeed import write_master

    config, allocator = tuner.peft_config[tuner.trainable_adapter_name], tuner.rankallocator
    if not allocator.budget_schedule(step)[1] and step < config.total_step - config.tfinal:
        return
    allocator.mask_using_rank_pattern(tuner.model, config.rank_pattern)
    for name, weight in tuner.model.named_parameters():
        if ".lora_E." in name:
            write_master(weight, weight != 0)


def _keep(tuner: Any, path: Path) -> None:
    """Write the importance of each weight so far, and which directions are left."""
    import torch

    allocator = tuner.rankallocator
    known = {name: getattr(allocator, name) for name in ("ipt", "exp_avg_ipt", "exp_avg_unc")}
    pattern = json.dumps(tuner.peft_config[tuner.trainable_adapter_name].rank_pattern)
    torch.save({**known, "rank_pattern": pattern}, path)


def _restore(tuner: Any, path: Path, device: Any) -> None:
    import torch

    known = torch.load(path, weights_only=True, map_location=device)  # it was written where rank 0 computes
    tuner.peft_config[tuner.trainable_adapter_name].rank_pattern = json.loads(known.pop("rank_pattern"))
    for name, values in known.items():
        setattr(tuner.rankallocator, name, values)


def active_ranks(model: Any) -> dict[str, int]:
    """Return the number of directions that are left in each of AdaLoRA's layers."""
    return {name: int((weight != 0).sum()) for name, weight in model.named_parameters() if ".lora_E." in name}
