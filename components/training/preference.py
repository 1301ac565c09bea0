"""Preference training: the loop that each Ray Train worker runs, around TRL's DPOTrainer or KTOTrainer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from components.config import Field
from components.training.moving_reference import ReferenceConfig
from components.training.preference_losses import LossConfig, first_step_check
from components.training.settings import OptimConfig


class PreferenceOptimConfig(OptimConfig):
    """How the weights are updated: preference losses want smaller steps than demonstrations do."""

    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate of AdamW")


def preference_loop(payload: dict[str, Any]) -> dict[str, Any]:
    """Train on this worker until done; return the final figures, or the invariant that broke.

    Payload: as ``sft_loop``'s, with ``loss`` (a LossConfig's fields), ``paired`` (False: labelled answers) and, where
    it is not fixed, ``reference`` (a ReferenceConfig's fields); its rows are those of ``preference_rows.prepare``.
    """
    from components.training.launch import prepare_worker

    prepare_worker(payload)
    from components.training.callbacks import make_callback
    from components.training.save import run_and_save

    loss = LossConfig(**payload["loss"])
    # Full weights that are only measured may have another reference than their own start: an adapter's 4-bit base.
    check = first_step_check(loss, payload["dtype"], paired=payload["paired"]) if payload["out"] else None
    callback = make_callback(payload["run"], Path(payload["evidence"]), check)
    return run_and_save(make_trainer(payload, [callback]), callback, payload)


def make_trainer(payload: dict[str, Any], callbacks: Sequence[Any]) -> Any:
    """Return the trainer of ``preference_loop``'s payload; it needs no Ray, and DeepSpeed only if asked to."""
    from transformers import PrinterCallback
    from trl import DPOConfig, KTOConfig

    from components.models.load import load_tokenizer
    from components.models.packing import can_share_prompt
    from components.training import adapting, completion_head, moving_reference
    from components.training.preference_rows import collate_labelled
    from components.training.preference_trainers import labelled_trainer, pair_trainer
    from components.training.rows import read_rows

    loss, paired = LossConfig(**payload["loss"]), payload["paired"]
    reference = ReferenceConfig(**payload.get("reference", {}))
    tokenizer = load_tokenizer(payload["model"])
    common = {**payload["arguments"], "precompute_ref_log_probs": True, "remove_unused_columns": False}
    special: dict[str, Any]
    if loss.name == "kto":
        trainer_class: Any = labelled_trainer(loss, paired=paired)
        weights = {"desirable_weight": loss.desirable, "undesirable_weight": loss.undesirable}
        special = {
            "args": KTOConfig(**common, **weights, beta=loss.beta, loss_type="apo_zero_unpaired"),
            "data_collator": lambda rows: collate_labelled(rows, tokenizer.pad_token_id),
        }
    else:
        trainer_class = pair_trainer(loss, moves=reference.moves)
        terms = loss.trl_terms or {"loss_type": ["sigmoid"]}  # its value is then not used
        special = {"args": DPOConfig(**common, **terms, beta=loss.beta)}
    model = adapting.load(payload)
    trainer = trainer_class(
        model=model,
        train_dataset=read_rows(payload["train"]),
        eval_dataset=read_rows(payload["eval"]) if payload["eval"] else None,
        processing_class=tokenizer,
        peft_config=adapting.configure(model, payload),
        callbacks=list(callbacks),
        **special,
    )
    adapting.attach(trainer, payload)
    share = 2 if paired and can_share_prompt(model) else 1
    completion_head.attach(model, share=share)
    if reference.moves:
        trainer.reference = moving_reference.make(payload, model, share)
        moving_reference.attach(trainer, trainer.reference, reference)
    trainer.remove_callback(PrinterCallback)
    return trainer
