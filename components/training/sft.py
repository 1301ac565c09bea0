"""Supervised fine-tuning: the loop that each Ray Train worker runs, around TRL's SFTTrainer."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from components.data.chat import ChatTemplate
from components.training.save import run_and_save

COLUMNS = ("prompt", "completion")  # of a demonstration


def demonstration_ids(template: ChatTemplate) -> Callable[[Mapping[str, Any]], tuple[dict[str, Any], int]]:
    """Return the function that makes a demonstration row the ids and labels that the trainer sees."""

    def convert(row: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
        example = template.example(row["prompt"], row["completion"])
        return {"input_ids": example.input_ids, "labels": example.labels}, len(example.input_ids)

    return convert


def sft_loop(payload: dict[str, Any]) -> dict[str, Any]:
    """Train on this worker until done; return the final figures, or the invariant that broke.

    Payload: ``model`` (folder), ``adapter``, ``arguments`` (of the trainer), ``train`` and ``eval`` (files of
    rows), ``out`` (folder to write, or none), ``run`` (RunHandle), ``dtype``, ``seed`` and what ``launch`` adds.
    """
    from components.training.launch import prepare_worker

    prepare_worker(payload)
    from components.training.callbacks import make_callback

    callback = make_callback(payload["run"], Path(payload["evidence"]))
    return run_and_save(make_trainer(payload, [callback]), callback, payload)


def make_trainer(payload: dict[str, Any], callbacks: list[Any]) -> Any:
    """Return TRL's trainer with our model, rows and adapter; it computes on completions only."""
    from transformers import PrinterCallback
    from trl import SFTConfig, SFTTrainer

    from components.models.load import load_tokenizer
    from components.training import adapting, completion_head
    from components.training.rows import read_rows

    arguments = SFTConfig(**payload["arguments"])  # comes first: for ZeRO-3 it lets the model be divided while it loads
    model = adapting.load(payload)
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=read_rows(payload["train"]),
        eval_dataset=read_rows(payload["eval"]) if payload["eval"] else None,
        processing_class=load_tokenizer(payload["model"]),
        peft_config=adapting.configure(model, payload),
        callbacks=callbacks,
    )
    adapting.attach(trainer, payload)
    completion_head.attach(model, share=1)
    trainer.remove_callback(PrinterCallback)
    return trainer
