"""Training data from a model's own solutions: those that turn out right become demonstrations, and win over wrong ones.

Who says what is right is handed in. Source: Zelikman et al. 2022, "STaR: Bootstrapping Reasoning With Reasoning"
(rejection sampling, and rationalization of what was not solved).
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from components.config import Config, Field, InputPath, UserError
from components.data.generated_tasks import Task, TaskConfig, make_tasks
from components.data.preference_files import preference_row
from components.data.records import content_hash
from components.data.split import split_of
from components.data.task_files import read_tasks

SOURCE = "traces"
RATIONALIZED = "traces:rationalized"  # of solutions that were written with the answer in sight
# What the strategies ask, word for word: a model that was trained on it knows it when it is served.
REQUEST = "Think step by step. Then end with a line that says 'Answer:' and the answer."
HINT = "(The answer is {answer}. Show the steps that lead to it, as if it was not known.)"


class TraceConfig(Config):
    """Which questions a model solves, and what is made of its solutions."""

    file: InputPath | None = Field(None, description="questions with answers: .jsonl or .jsonl.gz; none: generated")
    generated: TaskConfig = Field(TaskConfig(), description="the questions that are generated")
    limit: int | None = Field(None, ge=1, description="the first questions of the file; none takes all")
    test_share: float = Field(0.2, ge=0, lt=1, description="share of the questions kept for the test")
    request: str = Field(REQUEST, description="what is asked for behind each question")
    verify: Literal["answer", "vote"] = Field("answer", description="right is the known answer, or what most say")
    least_share: float = Field(0.5, gt=0, le=1, description="share of the solutions that a vote has to have")
    demonstrations: int = Field(1, ge=0, description="right solutions of a question that are demonstrated")
    pairs: int = Field(2, ge=0, description="pairs of a right and a wrong solution of a question")
    rationalize: bool = Field(False, description="let the model see the answer to what it did not solve, and try again")


@dataclass(frozen=True)
class Asked:
    """One question as the model is asked it."""

    prompt_id: str
    prompt: list[dict[str, str]]
    task: Task
    split: str


@dataclass(frozen=True)
class Solution:
    """One solution of the model; one that was cut off can lose, but not win."""

    text: str
    finished: bool


Judge = Callable[[Task, Sequence[Solution]], Sequence[bool | None]]  # right, wrong, or not known


@dataclass(frozen=True)
class Traces:
    """What came of the solutions."""

    demonstrations: list[dict[str, Any]]
    pairs: list[dict[str, Any]]
    figures: dict[str, float]


def asked(config: TraceConfig, seed: int) -> list[Asked]:
    """Return the questions, each once, with the split that it is in.

    Raises:
        UserError: the file cannot be read, or there are no questions.
    """
    if config.file is None:
        tasks = make_tasks(config.generated, seed)
    else:
        rows = read_tasks(config.file)[: config.limit]
        tasks = [Task(row["question"], row["reasoning"], row["answer"], "file") for row in rows]
    if not tasks:
        raise UserError("there are no questions: give traces.file, or let some be generated (traces.generated)")
    found = {}
    for task in tasks:
        text = f"{task.question}\n\n{config.request}"
        prompt_id = content_hash(f"user: {text}")
        split = split_of(f"user: {task.question}", config.test_share)
        found[prompt_id] = Asked(prompt_id, [{"role": "user", "content": text}], task, split)
    return list(found.values())


def solutions(replies: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[Solution]]:
    """Return an engine's replies (``text``, ``finished``) by prompt id as solutions."""
    return {
        prompt_id: [Solution(reply["text"], bool(reply["finished"])) for reply in own]
        for prompt_id, own in replies.items()
    }


def hinted(question: Asked) -> Asked:
    """Return a question whose prompt gives the answer away; what comes back is kept under the prompt that does not."""
    hint = HINT.format(answer=question.task.answer)
    prompt = [{"role": "user", "content": f"{question.prompt[0]['content']}\n{hint}"}]
    return Asked(question.prompt_id, prompt, question.task, question.split)


def unsolved(questions: Sequence[Asked], solved: Mapping[str, Sequence[Solution]], judge: Judge) -> list[Asked]:
    """Return the training questions without a right solution: what rationalization tries again."""
    return [
        question
        for question in questions
        if question.split == "train" and not _sorted(question, solved.get(question.prompt_id, ()), judge)[0]
    ]


def make(
    questions: Sequence[Asked],
    solved: Mapping[str, Sequence[Solution]],
    judge: Judge,
    config: TraceConfig,
    rationalized: Mapping[str, Sequence[Solution]] | None = None,
    judge_of_rationalized: Judge | None = None,
) -> Traces:
    """Return demonstrations of right solutions, and pairs of right against wrong ones, at most one a text.

    A question takes turns with its right solutions. Rationalized ones are demonstrated, but win over none: the model
    would not have written them unasked. What most of them say is what they were told: they are judged by the answer
    that was given away, which ``judge_of_rationalized`` (none: ``judge``) sees to.

    Raises:
        UserError: there is no right solution at all.
    """
    demonstrations: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    counts = {"questions": len(questions), "solutions": 0, "right": 0, "solved": 0, "cut_off": 0, "rationalized": 0}
    for question in questions:
        own = solved.get(question.prompt_id, ())
        right, wrong, known = _sorted(question, own, judge)
        counts["solutions"] += len(own)
        counts["right"] += known
        counts["solved"] += bool(right)
        counts["cut_off"] += sum(not solution.finished for solution in own)
        shown = right[: config.demonstrations]
        if not right and rationalized:
            again = rationalized.get(question.prompt_id, ())
            told = _sorted(question, again, judge_of_rationalized or judge)[0]
            shown = told[: config.demonstrations]
            counts["rationalized"] += bool(shown)
        source = SOURCE if right else RATIONALIZED
        demonstrations += [_demonstration(question, text, source) for text in shown]
        for number, text in enumerate(wrong[: config.pairs] if right else ()):
            better = right[number % len(right)]
            record = {"kind": question.task.kind}
            row = preference_row(record, question.prompt, better, text, question.prompt_id, source=SOURCE)
            pairs.append(row | {"split": question.split})
    if not demonstrations and not pairs:
        raise UserError(
            f"none of {counts['solutions']} solutions of {len(questions)} questions is right: give easier questions "
            "(traces.generated.steps, largest), a better model, or more draws (sampling.n)"
        )
    counts |= {"demonstrations": len(demonstrations), "pairs": len(pairs)}
    counts |= {f"pairs/{split}": sum(row["split"] == split for row in pairs) for split in ("train", "test")}
    figures = {f"traces/{name}": float(count) for name, count in counts.items()}
    return Traces(demonstrations, pairs, figures | {"traces/accuracy": counts["right"] / max(1, counts["solutions"])})


def write_held_out(path: Path, questions: Sequence[Asked]) -> Path:
    """Write the test questions as a task file for `evaluate reasoning`; nothing half-written is ever seen."""
    part = path.with_suffix(".part")
    lines = [json.dumps(each.task.row(), ensure_ascii=False) for each in questions if each.split == "test"]
    part.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def sample_text(traces: Traces, count: int = 20) -> str:
    """Return some demonstrations and pairs for people to read."""
    lines = []
    for row in traces.demonstrations[:count]:
        lines += [f"## {row['prompt'][0]['content']}", row["completion"][0]["content"], ""]
    for row in traces.pairs[:count]:
        lines += [f"## {row['prompt'][0]['content']}", f"+ {row['chosen'][0]['content']}"]
        lines += [f"- {row['rejected'][0]['content']}", ""]
    return "\n".join(lines)


def _sorted(question: Asked, solutions: Sequence[Solution], judge: Judge) -> tuple[list[str], list[str], int]:
    """(right and finished texts, wrong ones, how many are right): each text once, without empty ones."""
    verdicts = judge(question.task, solutions)
    right, wrong = dict[str, None](), dict[str, None]()
    for solution, verdict in zip(solutions, verdicts, strict=True):
        text = solution.text.strip()
        if text and verdict and solution.finished:
            right[text] = None
        elif text and verdict is False:
            wrong[text] = None
    return list(right), [text for text in wrong if text not in right], sum(verdict is True for verdict in verdicts)


def _demonstration(question: Asked, text: str, source: str) -> dict[str, Any]:
    return {
        "prompt_id": question.prompt_id,
        "prompt": question.prompt,
        "completion": [{"role": "assistant", "content": text}],
        "kind": question.task.kind,
        "split": question.split,
        "source": source,
    }
