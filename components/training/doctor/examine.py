"""Looks over a training's configuration: its model, its rows, this machine."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.config import UserError, WorkflowConfig
from components.data import store
from components.data.chat import ChatTemplate
from components.models import sources
from components.training.doctor import contents, machine, model, tokens
from components.training.doctor.findings import Finding
from components.training.rows import split_condition
from components.training.settings import Recipe, TrainingConfig

Row = Mapping[str, Any]
_TABLES = ("demonstrations", "preferences", "steps", "prompts")  # keys of the trainings' tables


@dataclass(frozen=True)
class _Kind:
    """What the rows of a table are, which its columns tell."""

    name: str
    columns: tuple[str, ...]  # that the rows are looked at for
    sides: int = 1  # sequences that a row is in a forward pass


@dataclass(frozen=True)
class _Limit:
    """How long rows may be."""

    tokens: int
    key: str
    longest: int  # what the model reads at once: a row, and what is drawn after it

    @classmethod
    def of(cls, config: Any) -> "_Limit":
        """The limit in a training's configuration: PPO has one of its prompts, which are answered."""
        if isinstance(config, TrainingConfig):
            return cls(config.max_tokens, "max_tokens", config.max_tokens)
        longest = config.max_prompt_tokens + config.rollout.max_new_tokens
        return cls(config.max_prompt_tokens, "max_prompt_tokens", longest)


_PAIRS = _Kind(
    "pairs",
    ("pair_id", "prompt_id", "prompt", "chosen", "rejected", "chosen_score", "rejected_score", "votes", "split"),
    sides=2,
)
_LABELLED = _Kind("labelled answers", ("prompt_id", "prompt", "completion", "label", "split"))
_DEMONSTRATIONS = _Kind("demonstrations", ("prompt_id", "prompt", "completion", "split"))
_STEPS = _Kind("steps", ("prompt_id", "prompt", "steps", "split"))
_PROMPTS = _Kind("prompts", ("prompt_id", "prompt", "split"))


def examine(config: WorkflowConfig, *, rows: int) -> Iterator[Finding]:
    """Yield what is found, a table at a time; nothing is started and nothing is written.

    Args:
        config: of a training workflow, prepared as its ``main`` gets it.
        rows: how many of a table's training rows are tokenized, drawn by the configuration's seed.

    Raises:
        UserError: the training would refuse its configuration, its model or a table right away.
    """
    yield machine.versions()
    cache = machine.storage_of(config) / "cache"
    folder = sources.resolve(config.model, cache)  # type: ignore[attr-defined]
    template = ChatTemplate.from_folder(folder)
    limit = _Limit.of(config)
    yield from model.examine(folder, template, config.adapter, longest=limit.longest)  # type: ignore[attr-defined]
    tables = [(key, ref) for key in _TABLES if (ref := getattr(config, key, None))]
    if not tables:
        raise UserError(f"there is nothing to learn from: give one of {', '.join(_TABLES)}")
    kinds = {key: _kind(ref) for key, ref in tables}
    for key, ref in tables:
        for found in _table(ref, kinds[key], template, config, rows, limit):
            yield Finding(f"{key}: {found.check}", found.state, found.text)
    if isinstance(config, TrainingConfig):
        recipe = Recipe.of(config)
        batch_tokens = recipe.optim.micro_batch_size * limit.tokens * max(kind.sides for kind in kinds.values())
        yield machine.memory(folder, recipe, batch_tokens)
        yield machine.space(machine.storage_of(config), folder, recipe, batch_tokens)


def _kind(ref: str) -> _Kind:
    columns = set(store.open_table(ref).schema.names)
    for kind, needed in (
        (_PAIRS, {"chosen", "rejected"}),
        (_LABELLED, {"completion", "label"}),
        (_DEMONSTRATIONS, {"completion"}),
        (_STEPS, {"steps"}),
        (_PROMPTS, {"prompt"}),
    ):
        if needed <= columns:
            return kind
    raise UserError(f"{ref} has none of the columns prompt, chosen, completion, steps: it is no table to train on")


def _table(
    ref: str, kind: _Kind, template: ChatTemplate, config: WorkflowConfig, size: int, limit: _Limit
) -> Iterator[Finding]:
    there = set(store.open_table(ref).schema.names)
    columns = [name for name in kind.columns if name in there]
    train = store.read(ref, columns=columns, where=split_condition("train", getattr(config, "where", None)))
    test = store.read(ref, columns=columns, where="split = 'test'")
    yield contents.splits(train, test)
    if not train:
        return
    sample = random.Random(config.seed).sample(train, min(size, len(train)))
    yield from tokens.examine(sample, _answers, template, limit=limit.tokens, limit_key=limit.key)
    yield contents.leaks(train, test)
    if kind is _PAIRS:
        yield from contents.pairs(train, test)
    elif kind is _LABELLED:
        yield from contents.labelled(train)
    elif kind is _DEMONSTRATIONS:
        yield contents.answers(train)


def _answers(row: Row) -> Sequence[Sequence[Mapping[str, str]]]:
    if "chosen" in row:
        return [row["chosen"], row["rejected"]]
    if "completion" in row:
        return [row["completion"]]
    if "steps" in row:
        solution = "\n".join(step["text"] for step in row["steps"])
        return [[{"role": "assistant", "content": solution}]]
    return []
