"""Looks over a training's configuration: its model, its rows, this machine."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from components import storage
from components.config import WorkflowConfig
from components.data.chat import ChatTemplate
from components.models import sources
from components.training.doctor import contents, machine, model, tokens
from components.training.doctor.findings import Finding, problem
from components.training.doctor.tables import DEMONSTRATIONS, LABELLED, PAIRS, STEPS, Table, answers_of, tables_of
from components.training.ppo.estimate import planned_memory
from components.training.settings import Recipe, TrainingConfig


def examine(config: WorkflowConfig, *, rows: int) -> Iterator[Finding]:
    """Yield what is found, a table at a time; nothing is started, and of a hub's model a copy is fetched.

    Args:
        config: of a training workflow, prepared as its ``main`` gets it.
        rows: how many of a table's training rows are tokenized, drawn by the configuration's seed.

    Raises:
        UserError: the training would refuse its model, its adapter, or the kind of a table.
    """
    yield machine.versions()
    parts: Any = config
    cache = storage.folder(config.storage) / "cache"
    folder = sources.resolve(parts.model, cache)
    template = ChatTemplate.from_folder(folder)
    yield from model.examine(folder, template, parts.adapter)
    if not isinstance(config, TrainingConfig):
        _check_rewards(parts, folder, cache, template)
    key = "max_tokens" if isinstance(config, TrainingConfig) else "max_prompt_tokens"
    limit, longest, sides, whole = getattr(config, key), 0, 1, True
    for table in tables_of(config):
        drawn_rows = _drawn(table.main, rows, config.seed)
        seen = tokens.read(drawn_rows, answers_of, template)
        held_out = tokens.read(_drawn(table.test, parts.eval_rows, config.seed), answers_of, template)
        longest = max(longest, seen.longest(limit), held_out.longest(limit))
        whole &= len(table.main) <= rows
        sides = table.kind.sides if table.learned else sides
        found = [contents.splits(table.train, table.test, learned=table.learned, needs_test=_is_measured(config))]
        found += _broken(table)
        if table.main:
            found += [*seen.findings(limit, key), *_of_contents(table)]
        if table.kind is STEPS:
            found.append(contents.unread(drawn_rows, template))
        if table.learned:
            found += _held_out(held_out, limit, key)
            _check_adapter(config, table, folder)
        yield from (Finding(f"{table.key}: {one.check}", one.state, one.text) for one in found)
    drawn = 0 if isinstance(config, TrainingConfig) else parts.rollout.max_new_tokens
    yield model.context(folder, longest + drawn, limit + drawn if not whole else 0)
    if isinstance(config, TrainingConfig):
        recipe = Recipe.of(config)
        most = longest if whole else limit  # a row that was not looked at may be as long
        yield machine.memory(folder, recipe, recipe.optim.micro_batch_size * most * sides, config.ray)
        yield machine.space(storage.folder(config.storage), folder, recipe)
    else:
        planned = planned_memory(parts, folder, sources.digest(folder, cache))
        yield machine.ppo_memory(planned, parts.scale, parts.rollout, config.ray)
        yield machine.room(storage.folder(config.storage), planned.trained, parts.save.keep)


def _is_measured(config: WorkflowConfig) -> bool:
    """Whether a training cannot do without held-out rows: a reward's mean and deviation are taken on them."""
    return "health" in type(config).model_fields


def _drawn(rows: list[dict[str, Any]], size: int, seed: int) -> list[dict[str, Any]]:
    return random.Random(seed).sample(rows, min(size, len(rows)))


def _broken(table: Table) -> list[Finding]:
    if not table.broken:
        return []
    return [problem("rows", f"{table.broken} have no text where a message has it: leave them out of the table")]


def _held_out(seen: tokens.Seen, limit: int, key: str) -> list[Finding]:
    if seen.refused:
        return [problem("held-out rows", f"{len(seen.refused)} are refused: {seen.refused[0]}")]
    if seen.lengths and not seen.longest(limit):
        return [
            problem("held-out rows", f"all {len(seen.lengths)} that are measured have more tokens than {key}={limit}")
        ]
    return []


def _check_adapter(config: WorkflowConfig, table: Table, folder: Path) -> None:
    """Refuse what a training would refuse of its adapter when it starts, after it has scored its pairs."""
    if isinstance(config, TrainingConfig):
        from components.training.job import check_adapter
        from components.training.rows import steps_of

        recipe = Recipe.of(config)
        check_adapter(recipe, folder, steps_of(len(table.train), recipe.optim.epochs, recipe.optim.batch_size))


def _of_contents(table: Table) -> Iterator[Finding]:
    if not table.learned:
        return
    yield contents.leaks(table.train, table.test)
    if table.kind is PAIRS:
        yield from contents.pairs(table.train, table.test)
    elif table.kind is LABELLED:
        yield from contents.labelled(table.train)
    elif table.kind is DEMONSTRATIONS:
        yield contents.answers(table.train)
    elif table.kind is STEPS:
        yield contents.steps(table.train)


def _check_rewards(config: Any, folder: Path, cache: Path, template: ChatTemplate) -> None:
    """Refuse rewards that PPO would refuse, and a judge without questions."""
    from components.data import store
    from components.training.ppo.job import check_rewards

    check_rewards(config, template, sources.digest(folder, cache))
    if config.reward.judge:
        store.check_columns(config.prompts, ("answerable",))
