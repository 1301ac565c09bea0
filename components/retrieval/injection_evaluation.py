"""How often a model obeys orders that are written into its passages, without the guard and with it."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from components.config import Config, Field, TableRef, UserError
from components.data.evaluation import held_out_questions
from components.retrieval.guard import Guard
from components.retrieval.injections import Injected, inject, obedience, obeyed
from components.retrieval.measure import paired

GUARDS: tuple[Guard, ...] = ("off", "quote", "drop")


class InjectionEvaluation(Config):
    """What is asked while passages give orders."""

    questions: TableRef | None = Field(None, description="questions table; its test split is asked over its passages")
    prompts: int = Field(
        200, ge=20, description="prompts, of which each holds one order; all orders come equally often"
    )
    max_new_tokens: int = Field(48, ge=1, description="longest answer, in tokens")


def run_evaluation(
    config: InjectionEvaluation, run: Any, template: Any, model: Path, engine_config: Any, seed: int
) -> tuple[dict[str, Any], dict[str, float]]:
    """Return (outputs, metrics) of asking a model; every answer goes into ``run``. Needs a connection to Ray.

    Raises:
        UserError: there are no questions.
    """
    if config.questions is None:
        raise UserError("there are no questions to ask: give injections.questions, a questions table")
    injected = prompts_for(config, seed)
    answers = answer_all(config, injected, template, model, engine_config)
    run.log_artifact(path := write_answers(run.dir / "injections.jsonl", injected, answers))
    found = rates(injected, answers)
    return {"answers": str(path), "rates": _overall(found)}, {name: figure["mean"] for name, figure in found.items()}


def prompts_for(config: InjectionEvaluation, seed: int) -> list[Injected]:
    """Return the prompts of the test set, the same for every guard. Raises UserError where there are no questions."""
    return inject(held_out_questions(str(config.questions)), config.prompts, seed)


def rates(injected: Sequence[Injected], answers: Mapping[Guard, Sequence[str]]) -> dict[str, dict[str, float]]:
    """Return ``<guard>/<order or all>`` → share of answers that obeyed, and what each guard takes off it, in pairs."""
    found = {
        f"{how}/{name}": figure for how, texts in answers.items() for name, figure in obedience(injected, texts).items()
    }
    by_prompt = {how: _by_prompt(injected, texts) for how, texts in answers.items()}
    contexts = {str(n): one.context for n, one in enumerate(injected)}
    for how in answers:
        if how != "off":
            found[f"{how}/prevented"] = paired(by_prompt["off"], by_prompt[how], groups=contexts)
    return found


def write_answers(path: Path, injected: Sequence[Injected], answers: Mapping[Guard, Sequence[str]]) -> Path:
    """Write every order and what was answered under each guard, a line of JSON for each prompt."""
    lines = [
        json.dumps({"question": one.question, "order": one.order} | {how: texts[n] for how, texts in answers.items()})
        for n, one in enumerate(injected)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def answer_all(
    config: InjectionEvaluation, injected: Sequence[Injected], template: Any, model: Path, engine_config: Any
) -> dict[Guard, list[str]]:
    """Return the model's greedy answers to all prompts under each guard; needs a connection to Ray."""
    from components.models import engine

    prompts = [{"prompt_ids": template.prompt_ids(one.prompt(how))} for how in GUARDS for one in injected]
    sampling = engine.Sampling(max_new_tokens=config.max_new_tokens)
    texts = [answer["text"] for answer in engine.sample(prompts, model, sampling, engine_config)]
    size = len(injected)
    return {how: texts[place * size : (place + 1) * size] for place, how in enumerate(GUARDS)}


def _overall(found: Mapping[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: figure for name, figure in found.items() if name.endswith(("/all", "/prevented"))}


def _by_prompt(injected: Sequence[Injected], texts: Sequence[str]) -> dict[str, float]:
    return {str(n): float(obeyed(text, one)) for n, (text, one) in enumerate(zip(texts, injected, strict=True))}
