"""Reward models: the loop that each Ray Train worker runs, around TRL's RewardTrainer.

Shapes: P pairs, K heads, S steps.
"""

import hashlib
import math
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import Config, Field
from components.data.chat import ChatTemplate
from components.models.packing import collate
from components.models.rewards import Kind
from components.models.step_rewards import step_ends
from components.training.settings import OptimConfig

if TYPE_CHECKING:
    import torch
    from trl import RewardTrainer

Row = Mapping[str, Any]


class RewardLossConfig(Config):
    """How a reward model learns from pairs."""

    heads: int = Field(
        1, ge=1, description="scalar heads on one trunk, each trained on its own resampled pairs, or worked solutions"
    )
    margin: float = Field(
        0.0, ge=0, description="pairs: demand a gap of margin x (score of chosen - score of rejected); 0 demands none"
    )
    centering: float = Field(
        0.01, ge=0, description="pairs: weight of (sum of their rewards)^2, which keeps them near 0"
    )


class RewardOptimConfig(OptimConfig):
    """How the weights are updated: a reward model over-fits after a pass or two."""

    learning_rate: float = Field(2e-4, gt=0, description="peak learning rate of AdamW")


def pair_rows(template: ChatTemplate, config: RewardLossConfig, seed: int) -> Callable[[Row], tuple[dict, int]]:
    """Return the function that makes a preference row what the trainer reads, and counts its longer side's tokens."""

    def convert(row: Row) -> tuple[dict[str, Any], int]:
        pair = template.pair(row["prompt"], row["chosen"], row["rejected"])
        known = row.get("chosen_score") is not None and row.get("rejected_score") is not None
        gap = row["chosen_score"] - row["rejected_score"] if known else 0.0
        ids = {
            "prompt_ids": pair.prompt_ids,
            "chosen_ids": pair.chosen_ids,
            "rejected_ids": pair.rejected_ids,
            "margin": config.margin * max(gap, 0.0),
            "weights": [row.get("weight", 1.0) * draw for draw in resampled(row["pair_id"], config.heads, seed)],
        }
        return ids, len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids))

    return convert


def step_rows(template: ChatTemplate, heads: int = 1, seed: int = 0) -> Callable[[Row], tuple[dict, int]]:
    """Return the function that makes a row of steps what the trainer reads; unlabelled steps carry no loss.

    A step of several lines is read at the end of its last one, a blank one nowhere. ``unread`` is how many labelled
    steps cannot be read: blank ones, and all but the last where a token holds the ends of two.
    """

    def convert(row: Row) -> tuple[dict[str, Any], int]:
        text = "\n".join(step["text"] for step in row["steps"])
        example = template.example(row["prompt"], [{"role": "assistant", "content": text}])
        prompt_ids = template.prompt_ids(row["prompt"])
        answer = example.input_ids[len(prompt_ids) :]
        ends = step_ends(answer, template.text_of)
        labels = _line_labels(row["steps"])
        if len(ends) != len(labels):
            ends, labels = ends[-1:] if labels else [], labels[-1:]
        kept = [(end, label) for end, label in zip(ends, labels, strict=True) if label is not None]
        ids = {
            "prompt_ids": prompt_ids,
            "answer_ids": answer,
            "ends": [end for end, _ in kept],
            "step_labels": [float(label) for _, label in kept],
            "weights": resampled(f"{row['prompt']} {text}", heads, seed),
            "unread": sum(step["label"] is not None for step in row["steps"]) - len(kept),
        }
        return ids, len(example.input_ids)

    return convert


def _line_labels(steps: Sequence[Row]) -> list[float | None]:
    """Return a label for each line with text, where ``step_ends`` finds an end: a step's is that of its last line."""
    labels: list[float | None] = []
    for step in steps:
        lines = sum(bool(line.strip()) for line in step["text"].split("\n"))
        labels += [None] * (lines - 1) + [step["label"]] if lines else []
    return labels


def resampled(row_id: str, heads: int, seed: int) -> list[float]:
    """Return how often each head sees a row: Poisson(1), which resamples a stream as the bootstrap does a set.

    A single head sees every row once. Source: Oza and Russell 2001, "Online Bagging and Boosting".
    """
    if heads == 1:
        return [1.0]
    draws = []
    for head in range(heads):
        generator = random.Random(hashlib.sha256(f"{seed} {head} {row_id}".encode()).digest())
        chance, count, product = math.exp(-1.0), 0, generator.random()
        while product > chance:
            product *= generator.random()
            count += 1
        draws.append(float(count))
    return draws


def pair_loss(
    rewards_2PK: "torch.Tensor", margins_P: "torch.Tensor", weights_PK: "torch.Tensor", centering: float
) -> "torch.Tensor":
    """Return the mean over pairs and heads of w (-ln sigmoid(chosen - rejected - margin) + c (chosen + rejected)^2).

    Chosen rows come first. It is a mean over pairs, not over weights, so that it does not depend on how a batch
    is split. Source: Bradley-Terry with margin, Llama 2 (arXiv 2307.09288) equation 2; centering, Eisenstein et
    al. 2023 (arXiv 2312.09244) section 2.
    """
    from torch.nn.functional import logsigmoid

    chosen_PK, rejected_PK = rewards_2PK.chunk(2)
    fit = -logsigmoid(chosen_PK - rejected_PK - margins_P[:, None])
    return (weights_PK * (fit + centering * (chosen_PK + rejected_PK) ** 2)).mean()


def step_loss(rewards_SK: "torch.Tensor", labels_S: "torch.Tensor", weights_SK: "torch.Tensor") -> "torch.Tensor":
    """Return the sum over steps, mean over heads, of w x the cross entropy of sigmoid(reward) with the step's label.

    Source: Uesato et al. 2022 (arXiv 2211.14275) section 2.4; Lightman et al. 2023 (arXiv 2305.20050).
    """
    from torch.nn.functional import binary_cross_entropy_with_logits

    labels_SK = labels_S[:, None].expand_as(rewards_SK)
    return (weights_SK * binary_cross_entropy_with_logits(rewards_SK, labels_SK, reduction="none")).mean(1).sum()


def reward_loop(payload: dict[str, Any]) -> dict[str, Any]:
    """Train on this worker until done; return the final figures, or the invariant that broke.

    Payload: as ``sft_loop``'s, with ``loss`` (a RewardLossConfig's fields) and ``kind`` (outcome or process).
    """
    from components.training.launch import prepare_worker

    prepare_worker(payload)
    from components.training.callbacks import make_callback
    from components.training.save import run_and_save

    callback = make_callback(payload["run"], Path(payload["evidence"]))
    return run_and_save(make_trainer(payload, [callback]), callback, payload)


def make_trainer(payload: dict[str, Any], callbacks: list[Any]) -> "RewardTrainer":
    """Return TRL's trainer with our heads, rows and losses."""
    from transformers import PrinterCallback
    from trl import RewardConfig

    from components.models.adapters import AdapterConfig
    from components.models.load import load_tokenizer
    from components.models.packing import can_share_prompt
    from components.models.rewards import attach, load_base, start_heads
    from components.training import adapting, deepspeed
    from components.training.rows import read_rows

    arguments = RewardConfig(**payload["arguments"], remove_unused_columns=False)  # first, as in sft.py, for ZeRO-3
    loss = RewardLossConfig(**payload["loss"])
    nf4 = AdapterConfig(**payload["adapter"]).quantizes
    model = load_base(Path(payload["model"]), loss.heads, payload["dtype"], payload["seed"], nf4=nf4).train()
    with deepspeed.gathered(model.score.weight) as is_divided:
        if is_divided:
            start_heads(model, payload["seed"])
    model.config.num_labels = 1  # TRL refuses more, though nothing in it depends on the number once the loss is ours
    trainer = _trainer_class(payload["kind"], loss)(
        model=model,
        args=arguments,
        train_dataset=read_rows(payload["train"]),
        processing_class=load_tokenizer(payload["model"]),
        peft_config=adapting.configure(model, payload, "SEQ_CLS"),
        data_collator=lambda rows: collate_rewarded(rows, payload["kind"]),
        callbacks=callbacks,
    )
    # A process loss is divided by the steps of the whole optimizer step, an outcome loss by its own pairs.
    trainer.model_accepts_loss_kwargs = trainer.loss_is_scaled_for_ga = payload["kind"] == "process"
    model.config.num_labels = loss.heads
    adapting.attach(trainer, payload)
    attach(model, share=2 if payload["kind"] == "outcome" and can_share_prompt(model) else 1)
    trainer.remove_callback(PrinterCallback)
    return trainer


def collate_rewarded(rows: Sequence[Row], kind: Kind) -> dict[str, "torch.Tensor"]:
    """Return the batch of one forward pass: chosen rows first, or one row for each worked solution.

    ``labels`` is what transformers counts to normalise a process loss over the whole optimizer step.
    """
    import torch

    if kind == "outcome":
        sides = [(row["prompt_ids"], row[side]) for side in ("chosen_ids", "rejected_ids") for row in rows]
        extra = {
            "margins": torch.tensor([row["margin"] for row in rows]),
            "weights": torch.tensor([row["weights"] for row in rows]),
        }
        batch = collate(sides, 0)
    else:
        batch = collate([(row["prompt_ids"], row["answer_ids"]) for row in rows], 0)
        at = torch.zeros_like(batch["completion_BT"])
        for number, row in enumerate(rows):
            at[number, [len(row["prompt_ids"]) + end for end in row["ends"]]] = True
        flat = torch.tensor([label for row in rows for label in row["step_labels"]])
        weights = torch.tensor([row["weights"] for row in rows for _ in row["step_labels"]])
        extra = {"at": at, "step_labels": flat, "weights": weights, "labels": torch.where(at, 1, -100)}
    names = {"input_ids_BT": "input_ids", "attention_BT": "attention_mask", "completion_BT": "completion_mask"}
    return {names[name]: value for name, value in batch.items()} | extra


def _trainer_class(kind: Kind, config: RewardLossConfig) -> "type[RewardTrainer]":
    """Return TRL's RewardTrainer with our rows and our losses."""
    import torch
    from trl import RewardTrainer

    class PreparedRewardTrainer(RewardTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            names = ("input_ids", "attention_mask", "completion_mask", "at")
            rewards = model(**{name: inputs[name] for name in names if name in inputs})
            if kind == "outcome":
                loss = pair_loss(rewards, inputs["margins"], inputs["weights"], config.centering)
                for name, values in _pair_figures(rewards.detach()).items():
                    self._note(name, values)
                return loss
            loss = step_loss(rewards, inputs["step_labels"], inputs["weights"])
            right_S = (rewards.detach().mean(1) > 0) == (inputs["step_labels"] > 0.5)
            self._note("rewards/step_accuracy", right_S.float())
            count = num_items_in_batch if num_items_in_batch is not None else len(rewards)
            return loss * self.accelerator.num_processes / count

        def _note(self, name: str, values: "torch.Tensor") -> None:
            """Note the mean over all workers, which may have different numbers of values: a breach stops all of them.

            One that went by its own figures would stop alone, and the others wait for it.
            """
            own = torch.stack([values.sum(), torch.tensor(float(values.numel()), device=values.device)])
            total, count = self.accelerator.reduce(own, "sum").tolist()
            if count:
                self._metrics["train"][name].append(total / count)

    return PreparedRewardTrainer


def _pair_figures(rewards_2PK: "torch.Tensor") -> dict[str, "torch.Tensor"]:
    chosen_P, rejected_P = rewards_2PK.mean(1).chunk(2)
    return {
        "rewards/accuracies": (chosen_P > rejected_P).float(),
        "rewards/margins": chosen_P - rejected_P,
        "rewards/mean": rewards_2PK,
        "rewards/disagreement": rewards_2PK.std(1, correction=0),
    }
