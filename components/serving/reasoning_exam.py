"""Measures reasoning strategies on questions with known answers: accuracy, tokens and latency of each, over HTTP.

What answers is handed in, so that the measurement runs against a fake as it does against a server.
"""

import hashlib
import json
import os
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import field_validator

from components.config import Config, Field, InputPath, ModelRef, StrategyOptions, UserError
from components.data.generated_tasks import Task, TaskConfig, make_tasks
from components.data.statistics import interval
from components.data.task_files import read_tasks
from components.progress import progress
from components.reasoning.budget import Limits
from components.reasoning.extract import extract, key, known, options, same
from components.reasoning.measured import ALL, VERSION, kind_of, read_table
from components.serving.settings import EngineOptions, ServedName

METRICS = ("accuracy", "tokens", "seconds")
_FULL = "RateLimitError"  # what the client makes of 429


class Contender(Config):
    """One strategy with its options, as it is served and compared."""

    name: str = Field(min_length=1, pattern=r"^[\w.-]+$", description="what the table and the plot call it")
    strategy: str = Field("direct", description="a file of components/reasoning/strategies")
    options: StrategyOptions = Field({}, description="the strategy's own options")
    temperature: float = Field(0.0, ge=0, le=2, description="temperature of what is not sampled by the strategy")
    budget: Limits = Field(Limits(), description="the most that one question may take")


class ReasoningTask(Config):
    """Which strategies are measured on which questions."""

    file: InputPath | None = Field(None, description="questions with answers: .jsonl or .jsonl.gz; none: generated")
    generated: TaskConfig = Field(TaskConfig(), description="the questions that are generated")
    limit: int | None = Field(None, ge=1, description="questions to ask, drawn by the seed; none asks all")
    contenders: tuple[Contender, ...] = Field(
        (
            Contender(name="direct"),
            Contender(name="cot", strategy="zero_shot_cot"),
            Contender(name="vote-8", strategy="self_consistency", options={"samples": 8}),
        ),
        min_length=1,
        description="the strategies; the first one is what the others are compared with",
    )
    max_tokens: int = Field(192, ge=1, description="longest chain, in tokens")
    users: int = Field(1, ge=1, description="questions that are asked at a time; 1 measures latency without a queue")
    embedder: ModelRef | None = Field(None, description="model that finds similar examples, for few_shot_cot")
    scorer: ModelRef | None = Field(None, description="reward model, for best_of_n and weighted votes")
    engine: EngineOptions = Field(EngineOptions(), description="how the model is run")

    @field_validator("contenders")
    @classmethod
    def _named_once(cls, contenders: tuple[Contender, ...]) -> tuple[Contender, ...]:
        names = [contender.name for contender in contenders]
        if repeated := [name for name in names if names.count(name) > 1]:
            raise UserError(f"two contenders are called '{repeated[0]}': give each a name of its own")
        return contenders

    def names(self) -> tuple[ServedName, ...]:
        """Return the contenders as names of a server."""
        shared = ("name", "strategy", "options", "temperature", "budget")
        return tuple(
            ServedName(max_tokens=self.max_tokens, **{key: getattr(each, key) for key in shared})
            for each in self.contenders
        )


@dataclass(frozen=True)
class Reply:
    """What came back to one question."""

    text: str
    tokens: int  # written, by all samples and calls
    seconds: float
    finish_reason: str = "stop"
    reasoning: str = ""
    error: str = ""  # why there is no answer


@dataclass(frozen=True)
class Graded:
    """One question, what one contender replied, and whether that is right."""

    name: str
    task: Task
    reply: Reply
    extracted: str
    right: bool


Ask = Callable[[str, str], Reply]  # (name, question); called from several threads


def questions(config: ReasoningTask, seed: int) -> list[Task]:
    """Return the questions: the file's or generated ones, of which ``limit`` are drawn by the seed.

    Raises:
        UserError: the file is none, or there are no questions.
    """
    if config.file is None:
        tasks = make_tasks(config.generated, seed)
    else:
        rows = read_tasks(config.file)
        tasks = [
            Task(row["question"], row["reasoning"], known(row["answer"], options(row["question"])), "") for row in rows
        ]
    if not tasks:
        raise UserError("there are no questions: give reasoning.file, or let some be generated (reasoning.generated)")
    if config.limit is not None and config.limit < len(tasks):
        chosen = sorted(random.Random(f"limit {seed}").sample(range(len(tasks)), config.limit))
        tasks = [tasks[place] for place in chosen]
    return tasks


def measure(tasks: Sequence[Task], names: Sequence[str], ask: Ask, users: int) -> list[Graded]:
    """Ask every contender every question, one contender after the other, and grade the replies.

    A question that fails is a wrong answer with the reason beside it.

    Raises:
        RuntimeError: every question of a contender failed, or some found the server full: that is no measurement.
    """
    graded: list[Graded] = []
    total = len(names) * len(tasks)

    def one(name: str, task: Task) -> Reply:
        began = time.perf_counter()
        try:
            return ask(name, task.question)
        except Exception as error:
            return Reply("", 0, time.perf_counter() - began, "error", error=f"{type(error).__name__}: {error}"[:300])

    for name in names:
        with ThreadPoolExecutor(max_workers=users) as pool:
            replies = []
            for reply in pool.map(lambda task, name=name: one(name, task), tasks):  # type: ignore[misc]
                replies.append(reply)
                progress(len(graded) + len(replies), total, f"questions asked of {name}")
        if all(reply.error for reply in replies):
            raise RuntimeError(f"{name} answered no question; the first failed with {replies[0].error}")
        if full := sum(reply.error.startswith(_FULL) for reply in replies):
            raise RuntimeError(
                f"{name}: the server was full for {full} of {len(replies)} questions, which says nothing of the "
                f"strategy: lower reasoning.users (now {users}), or raise engine.max_queued"
            )
        graded += [grade(name, task, reply) for task, reply in zip(tasks, replies, strict=True)]
    return graded


def grade(name: str, task: Task, reply: Reply) -> Graded:
    """Return whether a reply's final answer is the task's."""
    extracted, words = extract(reply.text, options(task.question)), key(reply.text)
    if words and words == key(task.answer):  # a date in words is no number in a sentence
        return Graded(name, task, reply, reply.text.strip(), True)
    right = bool(extracted) and same(extracted, task.answer, mathematics=True)
    return Graded(name, task, reply, extracted, right)


def table_of(graded: Sequence[Graded], contenders: Sequence[Contender], *, model: str, seed: int) -> dict[str, Any]:
    """Return the table that ``auto`` chooses from: each contender on all questions and on each kind of them.

    A contender with a temperature or budget of its own is in it, but not to be chosen.

    Args:
        model: digest of the weights that answered.
    """
    kinds = {each.task.question: kind_of(each.task.question) for each in graded}
    rows = []
    for contender in contenders:
        own = [each for each in graded if each.name == contender.name]
        for kind in (ALL, *sorted(set(kinds.values()))):
            some = [each for each in own if kind in (ALL, kinds[each.task.question])]
            if some and contender.strategy != "auto":
                values = {"name": contender.name, "strategy": contender.strategy, "options": _placed(contender.options)}
                as_chosen = contender.temperature == 0 and contender.budget == Limits()
                rows.append({**values, "kind": kind, "as_chosen": as_chosen, **figures(some, seed)})
    asked = "\n".join(sorted(f"{question}" for question in kinds))
    tasks = hashlib.sha256(asked.encode()).hexdigest()
    table = {"version": VERSION, "model": model, "tasks": tasks, "seed": seed, "rows": rows}
    return read_table(table).model_dump(mode="json")


def _placed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with their files' places in full, so that the table can be read from another folder."""
    return {
        name: str(Path(value).resolve()) if isinstance(value, str) and Path(value).is_file() else value
        for name, value in options.items()
    }


def figures(graded: Sequence[Graded], seed: int = 0) -> dict[str, dict[str, float]]:
    """Return accuracy, tokens and seconds of one question with 95 % intervals; questions are drawn."""
    clusters = [each.task.question for each in graded]
    values = {
        "accuracy": [float(each.right) for each in graded],
        "tokens": [float(each.reply.tokens) for each in graded],
        "seconds": [each.reply.seconds for each in graded],
    }
    return {metric: interval([own], clusters, seed=seed) for metric, own in values.items()}


def gains(graded: Sequence[Graded], names: Sequence[str], seed: int = 0) -> dict[str, dict[str, float]]:
    """Return by how much each contender is more accurate than the first, on the same questions, with intervals."""
    right = {(each.name, each.task.question): float(each.right) for each in graded}
    asked = list(dict.fromkeys(each.task.question for each in graded))
    return {
        name: interval([[right[name, one] - right[names[0], one] for one in asked]], asked, seed=seed)
        for name in names[1:]
    }


def evaluation(graded: Sequence[Graded], names: Sequence[str], seed: int = 0) -> dict[str, dict[str, Any]]:
    """Return the figures of each contender: accuracy, tokens, seconds, accuracy_per_1000_tokens, gain, failed."""
    gained = gains(graded, names, seed)
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        own = [each for each in graded if each.name == name]
        page: dict[str, Any] = figures(own, seed)
        page["accuracy_per_1000_tokens"] = 1000 * page["accuracy"]["mean"] / max(1.0, page["tokens"]["mean"])
        page["failed"] = sum(bool(each.reply.error) for each in own) / len(own)
        page["cut_off"] = sum(each.reply.finish_reason == "length" for each in own) / len(own)
        found[name] = page | ({"gain": gained[name]} if name in gained else {})
    return found


def write_results(folder: Path, graded: Sequence[Graded], table: Mapping[str, Any]) -> dict[str, Path]:
    """Write every answer and the table into ``folder``; return their paths by name."""
    lines = [
        json.dumps(
            {"name": each.name, **each.task.row(), "extracted": each.extracted, "right": each.right}
            | {"reply": asdict(each.reply)},
            ensure_ascii=False,
        )
        for each in graded
    ]
    written = {"answers": ("reasoning_answers.jsonl", "\n".join(lines) + "\n")}
    written["table"] = ("strategies.json", json.dumps(table, indent=1, ensure_ascii=False))
    paths = {}
    for name, (file, text) in written.items():
        part = folder / f"{file}.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, folder / file)
        paths[name] = folder / file
    return paths


def asker(url: str, key: str | None = None) -> Ask:
    """Return what asks a server, one request a question."""
    from components.serving.client import ask, connect

    client = connect(url, key)

    def of_server(name: str, question: str) -> Reply:
        said = ask(client, name, question)
        tokens = int(said.usage.get("completion_tokens", 0))
        return Reply(said.content, tokens, said.latency_s, said.finish_reason, said.reasoning)

    return of_server


def metrics(found: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Return the figures as flat metrics: <contender>/<figure>, means of what has an interval."""
    flat = {}
    for name, page in found.items():
        for figure, value in page.items():
            flat[f"{name}/{figure}"] = float(value["mean"] if isinstance(value, Mapping) else value)
    return flat
