"""Questions with one right answer, made by a seeded generator: arithmetic, stories and logic of graded difficulty.

A story is a chain of steps with its worked solution; logic asks who comes first or last of an order, or whether a
conclusion follows. Equal seeds make equal questions, and no question is made twice.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from components.config import Config, Field, UserError

_NAMES = ["Ann", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ida", "Jon"]
_THINGS = ["apples", "books", "coins", "pens", "stones", "cards", "shells", "tickets"]
_GROUPS = ["cats", "dogs", "birds", "fish", "roses", "stars", "boats", "trees"]
_COMPARISONS = [("taller", "tallest", "shortest"), ("older", "oldest", "youngest"), ("faster", "fastest", "slowest")]
_MOST_TRIES = 200  # for a question that was not made yet


@dataclass(frozen=True)
class Task:
    """One question, the steps that solve it, and its answer."""

    question: str
    reasoning: str
    answer: str
    kind: str

    def row(self) -> dict[str, str]:
        """Return it as a line of a task file has it."""
        return {"question": self.question, "reasoning": self.reasoning, "answer": self.answer, "kind": self.kind}


class TaskConfig(Config):
    """How many questions are made, and how hard they are."""

    arithmetic: int = Field(100, ge=0, description="sums and products of numbers")
    stories: int = Field(100, ge=0, description="somebody has, gets and gives things")
    logic: int = Field(100, ge=0, description="orders of people, and syllogisms")
    steps: int = Field(2, ge=1, le=6, description="operations of a sum or story; people of an order are one more")
    largest: int = Field(20, ge=5, description="largest number in a question")


def make_tasks(config: TaskConfig, seed: int) -> list[Task]:
    """Return the questions, kinds in turn.

    Raises:
        UserError: there are not that many different questions of this difficulty.
    """
    makers: Sequence[tuple[int, Callable[[random.Random, TaskConfig], Task]]]
    makers = ((config.arithmetic, _arithmetic), (config.stories, _story), (config.logic, _logic))
    rng = random.Random(f"tasks {seed}")
    made: dict[str, Task] = {}
    by_kind: list[list[Task]] = []
    for count, maker in makers:
        own: list[Task] = []
        for _ in range(count):
            for _ in range(_MOST_TRIES):
                task = maker(rng, config)
                if task.question not in made:
                    break
            else:
                raise UserError(
                    f"there are no {count} different questions of this kind with steps={config.steps} and "
                    f"largest={config.largest}: ask for fewer, or raise one of them"
                )
            made[task.question] = task
            own.append(task)
        by_kind.append(own)
    longest = max(map(len, by_kind), default=0)
    return [own[place] for place in range(longest) for own in by_kind if place < len(own)]


def _arithmetic(rng: random.Random, config: TaskConfig) -> Task:
    value = rng.randint(2, config.largest)
    expression, lines = str(value), []
    for number in range(config.steps):
        sign, other = rng.choice("+-*"), rng.randint(2, config.largest)
        if sign == "*":
            other = rng.randint(2, 9)
        if sign == "-" and other > value:
            sign = "+"
        result = {"+": value + other, "-": value - other, "*": value * other}[sign]
        lines.append(f"{value} {sign} {other} = {result}")
        expression = f"({expression}) {sign} {other}" if number else f"{expression} {sign} {other}"
        value = result
    return Task(f"What is {expression}?", "\n".join(lines), str(value), "arithmetic")


def _story(rng: random.Random, config: TaskConfig) -> Task:
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    value = rng.randint(2, config.largest)
    told, lines = [f"{name} has {value} {thing}."], []
    for _ in range(config.steps):
        other, friend = rng.randint(2, config.largest), rng.choice([each for each in _NAMES if each != name])
        kind = rng.choice(["gets", "gives", "times"])
        if kind == "gives" and other >= value:
            kind = "gets"
        if kind == "times":
            other = rng.randint(2, 5)
            told.append(f"Then {name} collects until there are {other} times as many.")
            lines.append(f"{value} * {other} = {value * other}")
            value *= other
        elif kind == "gives":
            told.append(f"{name} gives {other} {thing} to {friend}.")
            lines.append(f"{value} - {other} = {value - other}")
            value -= other
        else:
            told.append(f"{friend} brings {name} {other} more {thing}.")
            lines.append(f"{value} + {other} = {value + other}")
            value += other
    question = f"{' '.join(told)} How many {thing} does {name} have now?"
    return Task(question, "\n".join(lines), str(value), "story")


def _logic(rng: random.Random, config: TaskConfig) -> Task:
    return _order(rng, config) if rng.random() < 0.5 else _syllogism(rng, config)


def _order(rng: random.Random, config: TaskConfig) -> Task:
    people = rng.sample(_NAMES, config.steps + 1)
    more, most, least = rng.choice(_COMPARISONS)
    told = [f"{first} is {more} than {second}." for first, second in pairwise(people)]
    rng.shuffle(told)
    asked, answer = rng.choice([(most, people[0]), (least, people[-1])])
    reasoning = f"From the {most} to the {least}: {', '.join(people)}."
    return Task(f"{' '.join(told)} Who is the {asked}?", reasoning, answer, "logic")


def _syllogism(rng: random.Random, config: TaskConfig) -> Task:
    chain = rng.sample(_GROUPS, config.steps + 1)
    told = [f"All {first} are {second}." for first, second in pairwise(chain)]
    rng.shuffle(told)
    follows = rng.random() < 0.5
    first, second = (chain[0], chain[-1]) if follows else (chain[-1], chain[0])
    question = f"{' '.join(told)} Does it follow that all {first} are {second}? Answer yes or no."
    held = "So" if follows else "That only goes the other way: from this it does not follow that"
    return Task(question, f"{' '.join(told)} {held} all {first} are {second}.", "yes" if follows else "no", "logic")


def prompt_of(task: Task) -> list[dict[str, Any]]:
    """Return the conversation that asks a task."""
    return [{"role": "user", "content": task.question}]
