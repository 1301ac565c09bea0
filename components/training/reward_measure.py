"""How good a trained reward model is on held-out rows, and what its rewards are divided by."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from components.data.chat import ChatTemplate
from components.models.rewards import CombineConfig, RewardInfo, RewardModel, combine, held_out_statistics
from components.models.step_rewards import answer_rewards, step_ends, worst_step
from components.training.health_card import Card, HealthConfig, Scorer, make_card
from components.training.reward_rows import RewardData
from components.training.rows import Tokenized
from components.training.settings import ScaleConfig

logger = logging.getLogger(__name__)

_LEAST_STD = 1e-4  # of worst steps, in deviations of steps; less is rounding


def on_cluster(
    trained: Path,
    model: Path,
    data: RewardData,
    how: CombineConfig,
    health: HealthConfig,
    info: RewardInfo,
    *,
    scale: ScaleConfig,
) -> tuple[Card | None, dict[str, float]]:
    """Normalise what was trained and return its card and figures, from a Ray task with the hardware of training.

    Args:
        model: folder that training started from; its chat template is used.
        info: as ``normalise``'s.
    """
    from components.training.launch import once

    measured = replace(data, training=Tokenized([], [], 0))  # the rest of the rows need not travel
    return once(_normalise_and_measure, scale, trained, model, measured, how, health, info)


def _normalise_and_measure(
    trained: Path, model: Path, data: RewardData, how: CombineConfig, health: HealthConfig, info: RewardInfo
) -> tuple[Card | None, dict[str, float]]:
    template = ChatTemplate.from_folder(model)
    return measure(normalise(trained, data, template, info), data, template, how, health)


def normalise(folder: Path, data: RewardData, template: ChatTemplate, info: RewardInfo) -> RewardModel:
    """Write ``reward.json`` with the mean and deviation of held-out rewards, and return the model loaded with them.

    Args:
        info: its mean is 0 and its deviation 1.
    """
    info.write(folder)
    model = RewardModel(folder)
    if data.held_out_steps is not None:
        model.info = _of_steps(model, data.held_out_steps.rows, template, info)
    else:
        requests = [(pair["prompt"], [pair["chosen"], pair["rejected"]]) for pair in data.held_out]
        mean, std = held_out_statistics([answer for own in scorer(model, template)(requests) for answer in own])
        model.info = replace(info, mean=mean, std=std)
    model.info.write(folder)
    return model


def _of_steps(
    model: RewardModel, rows: Sequence[Mapping[str, Any]], template: ChatTemplate, info: RewardInfo
) -> RewardInfo:
    """Return ``info`` with the statistics of labelled steps, and of each solution's worst step, labelled or not."""
    ends = [step_ends(row["answer_ids"], template.text_of) for row in rows]
    found = model.score_steps([row["prompt_ids"] for row in rows], [row["answer_ids"] for row in rows], ends)
    labelled = [
        values
        for row, places, own in zip(rows, ends, found, strict=True)
        for place, values in zip(places, own, strict=True)
        if place in row["ends"]
    ]
    mean, std = held_out_statistics(labelled)
    known = replace(info, mean=mean, std=std)
    normalised = [[[(x - m) / s for x, m, s in zip(values, mean, std, strict=True)] for values in own] for own in found]
    worst_mean, worst_std = held_out_statistics([worst_step(own, known) for own in normalised])
    if min(worst_std) < _LEAST_STD:
        logger.warning("the worst steps of %d held-out solutions are alike: they stay in units of steps", len(rows))
        return known
    return replace(known, worst_mean=worst_mean, worst_std=worst_std)


def scorer(model: RewardModel, template: ChatTemplate) -> Scorer:
    """Return the function that rewards answers to prompts (messages); a process model's reward is its worst step's."""

    def score(requests: Sequence[Any]) -> list[list[list[float]]]:
        prompts = [template.prompt_ids(prompt) for prompt, _ in requests]
        answers = [[template.completion_ids(prompt, answer) for answer in own] for prompt, own in requests]
        return answer_rewards(model, prompts, answers, template.text_of)

    return score


def measure(
    model: RewardModel, data: RewardData, template: ChatTemplate, how: CombineConfig, health: HealthConfig
) -> tuple[Card | None, dict[str, float]]:
    """Return the health card over held-out pairs (none where there are none), and all figures."""
    figures: dict[str, float] = {}
    if data.held_out_steps is not None:
        figures |= step_accuracy(model, data.held_out_steps.rows)
    if not data.held_out:
        return None, figures
    deviations = [
        std * worst
        for std, worst in zip(model.info.std, model.info.worst_std or model.info.heads * (1.0,), strict=True)
    ]
    scale = sum(deviations) / len(deviations)
    card = make_card(data.held_out, scorer(model, template), health, lambda values: combine(values, how), scale)
    return card, figures | card.metrics()


def step_accuracy(model: RewardModel, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the share of held-out steps whose label the sign of the raw reward tells, right and wrong ones apart."""
    found = model.score_steps(*([row[name] for row in rows] for name in ("prompt_ids", "answer_ids", "ends")))
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for row, own in zip(rows, found, strict=True):
        for label, values in zip(row["step_labels"], own, strict=True):
            raw = sum(v * std + mean for v, mean, std in zip(values, model.info.mean, model.info.std, strict=True))
            hits[label > 0.5].append((raw > 0) == (label > 0.5))
    names = {True: "steps/accuracy_right", False: "steps/accuracy_wrong"}
    return {names[kind]: sum(own) / len(own) for kind, own in hits.items() if own}
