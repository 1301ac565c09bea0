"""What preference training changed, on held-out rows: the same figures for every loss, before and after.

They are taken from the model that training started from and from what it left, not from the trainer, so that they do
not depend on the loss, on whether it has a reference, nor on how the weights were sharded.

Shapes: B sequences, T tokens, N tokens of an answer, V vocabulary.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import Config, Field
from components.data.chat import ChatTemplate
from components.progress import progress
from components.training.settings import Recipe

if TYPE_CHECKING:
    import torch

_BATCH_TOKENS = 2048  # of one forward pass, padding included
_CHUNK = 64  # answer tokens whose [V] float32 log-probabilities of both models are held at once
_BATCH_PROMPTS, _BATCH_PROMPTS_GPU = 8, 64  # answered together


class MeasureConfig(Config):
    """What is measured on held-out rows before and after training, besides which answers the model prefers."""

    prompts: int = Field(
        16, ge=0, description="prompts of split 'test' (at most eval_rows) that are answered, for length and KL"
    )
    new_tokens: int = Field(64, ge=1, description="tokens after which an answer is cut off")


@dataclass(frozen=True)
class Measured:
    """What is compared: the model that training started from, and the folder of what it left."""

    model: Path
    template: ChatTemplate
    trained: Path
    recipe: Recipe
    dtype: str


def on_cluster(
    what: Measured, rows: Sequence[Mapping[str, Any]], paired: bool, config: MeasureConfig
) -> dict[str, float]:
    """Return ``measure`` of these held-out rows, taken in a Ray task that has a GPU if training's workers have one."""
    from components.training.launch import once

    payload = {
        "model": str(what.model),
        "trained": str(what.trained),
        "is_adapter": what.recipe.output == "adapter",
        "rows": list(rows),
        "paired": paired,
        "pad_id": what.template.pad_id,
        "turn_end_id": what.template.turn_end_id,
        "dtype": what.dtype,
        "nf4": what.recipe.adapter.quantizes,
        "seed": what.recipe.seed,
        "gpu": what.recipe.scale.gpu,
        **config.model_dump(),
    }
    return once(measure, what.recipe.scale, payload)


def measure(payload: Mapping[str, Any]) -> dict[str, float]:
    """Return the held-out figures, ``heldout/<figure>/before`` and ``/after``.

    - ``accuracy``: the share of (good, bad) answers of which the good one has the higher log-probability per token, a
      tie counting half. They are the pairs of a table of pairs; of labelled answers, every good one with every bad one.
    - ``reward_accuracy`` (after): the same of DPO's reward, the log-probability's gain over the model before.
    - ``margin`` (after): the good answer's gain less the bad one's, in nats, a mean over these pairs.
    - ``kl``: KL(model || model before) of an answer of at most ``new_tokens``, in nats: a sum over the tokens of
      answers that the model draws itself, at temperature 1, of the KL over the whole vocabulary. 0 before.
    - ``length``: tokens of these answers, the turn's end included; ``finished``: the share that ends by itself.

    Payload: ``model`` (folder), ``trained`` (folder), ``is_adapter``, ``rows`` (of ``preference_rows.Preferences``),
    ``paired``, ``prompts``, ``new_tokens``, ``pad_id``, ``turn_end_id``, ``dtype``, ``nf4`` (is the base in 4
    bits), ``seed``, ``gpu``.
    """
    rows, pad_id = payload["rows"], payload["pad_id"]
    prompts = [list(ids) for ids in dict.fromkeys(tuple(row["prompt_ids"]) for row in rows)][: payload["prompts"]]
    # One model at a time: training an adapter needs memory for no more.
    model = _load(payload, trained=True)
    after, answers = _scores(model, payload), sample(model, prompts, payload)
    logits = list(answer_logits(model, prompts, answers, pad_id))
    del model
    model = _load(payload, trained=False)
    before, answers_before = _scores(model, payload), sample(model, prompts, payload)
    figures = preferred(before, after, rows, payload["paired"])
    if prompts:
        for name, drawn in (("before", answers_before), ("after", answers)):
            figures[f"heldout/length/{name}"] = _mean([len(answer) for answer in drawn])
            figures[f"heldout/finished/{name}"] = _mean([answer[-1] == payload["turn_end_id"] for answer in drawn])
        kl = [answer_kl(*both) for both in zip(logits, answer_logits(model, prompts, answers, pad_id), strict=True)]
        figures |= {"heldout/kl/before": 0.0, "heldout/kl/after": _mean(kl), "heldout/prompts": float(len(prompts))}
    return figures


def preferred(
    before: Sequence[tuple[float, float]],
    after: Sequence[tuple[float, float]],
    rows: Sequence[Mapping[str, Any]],
    paired: bool,
) -> dict[str, float]:
    """Return which answers the models prefer, from their summed log-probabilities of each row's two answers."""
    if paired:
        pairs = [((at, 0), (at, 1)) for at in range(len(rows))]
    else:
        good = [(at, 0) for at, row in enumerate(rows) if row["label"]]
        bad = [(at, 0) for at, row in enumerate(rows) if not row["label"]]
        pairs = list(itertools.product(good, bad))
    if not pairs:  # labelled answers of one kind
        return {"heldout/pairs": 0.0}
    sides = ("chosen_ids", "rejected_ids")

    def per_token(sums: Sequence[tuple[float, float]], answer: tuple[int, int]) -> float:
        row, side = answer
        return sums[row][side] / len(rows[row][sides[side]])

    def gain(answer: tuple[int, int]) -> float:
        row, side = answer
        return after[row][side] - before[row][side]

    return {
        "heldout/pairs": float(len(pairs)),
        "heldout/accuracy/before": _mean([_wins(per_token(before, g), per_token(before, b)) for g, b in pairs]),
        "heldout/accuracy/after": _mean([_wins(per_token(after, g), per_token(after, b)) for g, b in pairs]),
        "heldout/reward_accuracy/after": _mean([_wins(gain(g), gain(b)) for g, b in pairs]),
        "heldout/margin/after": _mean([gain(g) - gain(b) for g, b in pairs]),
    }


def sample(model: Any, prompts: Sequence[Sequence[int]], payload: Mapping[str, Any]) -> list[list[int]]:
    """Return one answer to each prompt, drawn at temperature 1 from all tokens, with the turn's end if that came.

    What a model's own generation_config.json says, as a penalty on repetition, is set aside: these are samples of what
    was trained, and the same for all models.
    """
    import torch
    from transformers import GenerationConfig

    how = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        min_p=0.0,
        typical_p=1.0,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        max_new_tokens=payload["new_tokens"],
        eos_token_id=payload["turn_end_id"],
        pad_token_id=payload["pad_id"],
    )
    model.generation_config = GenerationConfig()  # what ``how`` leaves open, generate takes from there
    torch.manual_seed(payload["seed"])
    answers: list[list[int]] = []
    together = _BATCH_PROMPTS_GPU if payload["gpu"] else _BATCH_PROMPTS
    for start in range(0, len(prompts), together):
        batch = prompts[start : start + together]
        width = max(len(prompt) for prompt in batch)
        ids_BT = torch.tensor([[payload["pad_id"]] * (width - len(prompt)) + list(prompt) for prompt in batch])
        attention_BT = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        with torch.inference_mode():
            drawn_BT = model.generate(
                ids_BT.to(model.device), attention_mask=attention_BT.to(model.device), generation_config=how
            )[:, width:]
        answers += [_until(row, payload["turn_end_id"]) for row in drawn_BT.tolist()]
        progress(len(answers), len(prompts), "held-out answers")
    return answers


def answer_logits(
    model: Any, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], pad_id: int
) -> "Iterator[torch.Tensor]":
    """Yield each answer's logits [N, V] on the CPU, in the model's number format; the longest sequence comes first."""
    import torch

    from components.models.logprobs import batches_by_length
    from components.models.output_head import output_head
    from components.models.packing import collate, hidden_states, pack

    lengths = [len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True)]
    for numbers in batches_by_length(lengths, _BATCH_TOKENS):
        batch = collate([(prompts[number], answers[number]) for number in numbers], pad_id)
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        packed = pack(batch["input_ids_BT"], batch["attention_BT"], batch["completion_BT"], model.dtype)
        with torch.inference_mode():
            hidden_N = hidden_states(model, packed)[packed.predicts_N]
        for own in hidden_N.split([len(answers[number]) for number in numbers]):
            with torch.inference_mode():  # not around the yield: whoever reads would be in it, too
                logits_NV = output_head(model)(own).cpu()
            yield logits_NV


def answer_kl(logits_NV: "torch.Tensor", reference_NV: "torch.Tensor") -> float:
    """Return KL(policy || reference) of one answer in nats: the sum over its tokens of the KL over the vocabulary."""
    total = 0.0
    for own, other in zip(logits_NV.split(_CHUNK), reference_NV.split(_CHUNK), strict=True):
        log_p, log_q = own.float().log_softmax(-1), other.float().log_softmax(-1)
        total += float((log_p.exp() * (log_p - log_q)).sum())
    return total


def _load(payload: Mapping[str, Any], *, trained: bool) -> Any:
    """Return the model before or after training, where it is run."""
    from components.models.load import load_model

    if not trained:
        model: Any = load_model(payload["model"], payload["dtype"], nf4=payload["nf4"])
    elif payload["is_adapter"]:
        attached: Any = load_model(payload["model"], payload["dtype"], payload["trained"])
        model = attached.get_base_model()  # with the adapter's layers in it
    else:
        model = load_model(payload["trained"], payload["dtype"])
    return model.to("cuda" if payload["gpu"] else "cpu")


def _scores(model: Any, payload: Mapping[str, Any]) -> list[tuple[float, float]]:
    from components.training.reference import score_pairs

    return score_pairs(model, payload["rows"], payload["pad_id"], _BATCH_TOKENS)


def _until(ids: Sequence[int], end: int) -> list[int]:
    return list(ids[: ids.index(end) + 1]) if end in ids else list(ids)


def _wins(good: float, bad: float) -> float:
    return 1.0 if good > bad else 0.5 if good == bad else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
