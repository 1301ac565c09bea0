"""The table that ``auto`` chooses from: how accurate each strategy is on each kind of question, in how many tokens."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from components.config import Config, Field, UserError
from components.reasoning.extract import options as lettered_options

VERSION = 1
ALL = "all"  # the kind of a row over all questions
_FEWEST = 20  # questions of a kind that say more about it than all questions do
_OPERATOR = re.compile(r"(?<=[\d)])(?:\s*[+*×÷^]\s*|\s+[-−–/]\s+)(?=\(?[-−]?\d)")  # a fraction or a date has none


class Interval(Config):
    """A mean with its 95 % interval."""

    mean: float
    low: float
    high: float
    n: int = Field(ge=1)


class Row(Config):
    """What was measured of one strategy on one kind of question."""

    name: str  # of the strategy with its options, as reports call it
    strategy: str
    options: dict[str, Any] = Field({})
    kind: str
    accuracy: Interval
    tokens: Interval  # written for one question, by all samples and calls
    seconds: Interval
    as_chosen: bool = True  # not with a temperature or budget of its own, which auto's choice would not have

    @property
    def accuracy_per_1000_tokens(self) -> float:
        """Right answers that a thousand written tokens buy."""
        return 1000 * self.accuracy.mean / max(1.0, self.tokens.mean)


class Table(Config):
    """All rows of one measurement, and what they were measured with."""

    version: int
    model: str  # digest of the weights
    tasks: str  # digest of the questions
    seed: int = 0
    rows: tuple[Row, ...] = Field(min_length=1)


def read_table(values: Any) -> Table:
    """Return a table from its plain values.

    Raises:
        UserError: it is no such table, or one of another version.
    """
    if not isinstance(values, Mapping) or values.get("version") != VERSION:
        got = values.get("version") if isinstance(values, Mapping) else type(values).__name__
        raise UserError(
            f"auto chooses from a table of version {VERSION}, and this is {got!r}: make one with "
            "`python -m workflows.evaluate reasoning`"
        )
    try:
        return Table.model_validate(dict(values))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise UserError(f"the table of measured strategies is damaged at {where}: {problem['msg']}") from error


def kind_of(question: str) -> str:
    """Return what kind of question it is, by its form: choice, arithmetic, story, logic or other.

    A table has a row for each kind that was measured; whoever asks and whoever measures tell kinds apart by this.
    """
    if lettered_options(question):
        return "choice"
    words = re.findall(r"[A-Za-z]+", question)
    numbers = re.findall(r"\d+(?:\.\d+)?", question)
    if len(numbers) >= 2 and (len(words) <= 8 or len(_OPERATOR.findall(question)) >= 2):
        return "arithmetic"
    if len(numbers) >= 2:
        return "story"
    if re.search(r"\b(?:taller|older|heavier|faster|before|after|every|all|no|some|if|true|false)\b", question, re.I):
        return "logic"
    return "other"


def choose(rows: Sequence[Row], kind: str, tokens_left: int | None = None) -> Row:
    """Return the row of the strategy to use for a question of this kind: by what was measured on 20 such questions or
    more, else on all.

    Of those that are not measurably worse than the most accurate one (its mean lies within their interval or below
    it), the one with the most right answers per token. Those that write more than ``tokens_left`` on average are left
    out, unless all do: then it is the one that writes least.
    """
    rows = [row for row in rows if row.as_chosen]
    of_kind = [row for row in rows if row.kind == kind and row.accuracy.n >= _FEWEST]
    known = of_kind or [row for row in rows if row.kind == ALL] or rows
    fitting = [row for row in known if tokens_left is None or row.tokens.mean <= tokens_left]
    if not fitting:
        return min(known, key=lambda row: row.tokens.mean)
    best = max(fitting, key=lambda row: row.accuracy.mean)
    close = [row for row in fitting if row.accuracy.high >= best.accuracy.mean]
    return max(close, key=lambda row: row.accuracy_per_1000_tokens)
