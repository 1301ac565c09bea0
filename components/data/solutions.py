"""Worked solutions for reward models: a right one against a wrong one, and their steps with a label each.

A step is a line. `48/2 = <<48/2=24>>24 clips` marks how a number was computed: the mark says what to spoil and what
follows from it, and is left out of every text that is made here.
"""

import gzip
import random
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

from components.config import UserError
from components.data.arithmetic import DIGITS, NUMBER, agrees, claims, evaluate, read_number
from components.data.preference_files import preference_row
from components.data.records import content_hash
from components.data.row_files import json_value
from components.data.split import split_of

Step = dict[str, Any]  # {"text": a line, "label": 1.0 right, 0.0 wrong, None not known}

_MARK = re.compile(r"<<([^<>]*)>>")
_FINAL = re.compile(rf"(?:####|A:|Answer:)\s*[$€£]?\s*(-?{DIGITS})\D*", re.IGNORECASE)
_CHANGES = [(Fraction(1), by) for by in (-10, -5, -3, -2, -1, 1, 2, 3, 5, 10)]  # new = factor * old + by
_CHANGES += [(Fraction(factor), 0) for factor in ("1/10", "1/2", "2", "3", "10")]
_LARGEST = 10**12


@dataclass(frozen=True)
class Problem:
    """A question, its reference solution where there is one (marks and all), and solutions that were judged."""

    question: str
    reference: str | None
    judged: list[tuple[str, bool]]  # text, and whether its final answer is right


def read_solutions(path: str | Path, limit: int | None = None) -> list[Problem]:
    """The problems of the file's first `limit` rows; rows with the same question are one problem.

    Raises:
        UserError: the file is missing, of another kind, empty, or has a malformed row (its line is named).
    """
    problems: dict[str, Problem] = {}
    for where, record in islice(_rows(Path(path)), limit):
        new = _problem(record, where)
        old = problems.get(new.question, Problem(new.question, None, []))
        problems[new.question] = Problem(new.question, old.reference or new.reference, old.judged + new.judged)
    if not problems:
        raise UserError(f"{path} holds no rows: it needs questions with 'solutions' or with an 'answer'")
    return list(problems.values())


def outcome_pairs(
    problems: Sequence[Problem], per_prompt: int, test_share: float, salt: str = ""
) -> list[dict[str, Any]]:
    """Rows of the `preferences` table: a right solution against each wrong one, at most `per_prompt` of a question.

    The right ones take turns; where none is right the reference is preferred, if there is one.
    """
    rows: dict[str, dict[str, Any]] = {}
    for problem in problems:
        _, prompt, split = _prompt(problem, test_share, salt)
        right = list(dict.fromkeys("\n".join(_lines(text)) for text, is_right in problem.judged if is_right))
        right = right or (["\n".join(_lines(problem.reference))] if problem.reference else [])
        wrong = dict.fromkeys("\n".join(_lines(text)) for text, is_right in problem.judged if not is_right)
        worse = [text for text in wrong if right and text not in right]  # one text may have been judged both ways
        for number, text in enumerate(worse[:per_prompt]):
            better = right[number % len(right)]
            row = preference_row({"kind": "solution"}, prompt, better, text, problem.question, source="solutions")
            rows.setdefault(row["pair_id"], row | {"split": split})
    return list(rows.values())


def steps(
    problems: Sequence[Problem], test_share: float, salt: str = "", *, spoiled: int = 1, seed: int = 0
) -> list[dict[str, Any]]:
    """Rows of the `steps` table: references, up to `spoiled` spoiled variants of each, and judged solutions.

    The same text for the same question makes one row.
    """
    rows: dict[str, dict[str, Any]] = {}
    for problem in problems:
        prompt_id, prompt, split = _prompt(problem, test_share, salt)
        made: list[tuple[str, bool, list[Step]]] = []
        if problem.reference:
            made.append(("reference", True, judge_steps(problem.reference, True)))
            variants = (spoil_step(problem.reference, f"{seed}:{number}") for number in range(spoiled))
            made += [("spoiled", False, variant) for variant in variants if variant]
        made += [("sampled", is_right, judge_steps(text, is_right)) for text, is_right in problem.judged]
        for kind, outcome, lines in made:
            step_id = content_hash(prompt_id, "\n".join(step["text"] for step in lines))
            row = {"step_id": step_id, "prompt_id": prompt_id, "prompt": prompt, "steps": lines, "outcome": outcome}
            rows.setdefault(step_id, row | {"kind": kind, "split": split, "source": "solutions"})
    return list(rows.values())


def judge_steps(text: str, is_right: bool) -> list[Step]:
    """The steps of a solution of which only the final answer was judged.

    All are right in a right one. In a wrong one the last is wrong, and so is all from the first arithmetic that is
    false; of what comes before nothing is known.
    """
    lines = _lines(text)
    if is_right:
        return _labelled(lines, 1.0, len(lines))
    false = (number for number, line in enumerate(lines) if not all(claim.holds for claim in claims(line)))
    return _labelled(lines, None, next(false, len(lines) - 1))


def spoil_step(reference: str, seed: int | str) -> list[Step] | None:
    """The steps of a reference with one computed number changed, and carried on to what is computed from it.

    The final answer is always another one, and what was a whole number stays one. None where the reference names
    no final answer (`#### N` in its last line) or no change of a step reaches it.
    """
    lines = _lines(reference, marks=True)
    right = final_answer(reference)
    rng = random.Random(f"{seed}:{reference}")
    places = [number for number, line in enumerate(lines) if _computed(line)[1]]
    for place in rng.sample(places, len(places)) if right is not None else ():
        for factor, by in rng.sample(_CHANGES, len(_CHANGES)):
            texts = _carry(lines, place, factor, by)
            if texts and final_answer(texts[-1]) not in (None, right):
                return _labelled(texts, 1.0, place)
    return None


def final_answer(text: str) -> Fraction | None:
    """The number of a last line such as `#### 1,200` or `A: 1200`; None where it is written otherwise."""
    found = _FINAL.fullmatch(text.strip().rpartition("\n")[2].strip())
    return evaluate(found[1]) if found else None


def figures(pairs: Sequence[Mapping[str, Any]], rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Counts: pairs and solutions by split, solutions by kind, steps by label."""
    counts = Counter({f"{name}/{split}": 0 for name in ("pairs", "solutions") for split in ("train", "test")})
    counts.update(f"pairs/{row['split']}" for row in pairs)
    counts.update(f"solutions/{row[name]}" for row in rows for name in ("split", "kind"))
    names = {1.0: "right", 0.0: "wrong", None: "unlabelled"}
    counts.update(f"steps/{names[step['label']]}" for row in rows for step in row["steps"])
    return {name: float(number) for name, number in counts.items()}


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    """(file and line, row) of everything in the file."""
    if not path.is_file():
        raise UserError(f"there is no file of solutions {path}: correct 'file'")
    if not path.name.removesuffix(".gz").endswith((".jsonl", ".ndjson", ".json")):
        raise UserError(f"{path} is of no kind that can be read: give a .jsonl or .jsonl.gz file")
    open_text = gzip.open if path.suffix == ".gz" else open
    number = 0
    try:
        with open_text(path, "rt", encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path} line {number}", json_value(line, f"{path} line {number}")
    except (UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"{path} line {number + 1}: cannot be read as UTF-8 text ({error})") from error


def _problem(record: Any, where: str) -> Problem:
    """The problem of one row. Raises UserError naming `where` and what is wrong with it."""
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object with a question, got {type(record).__name__}")
    question = _said(record, "question", where)
    references = [_said(record, key, where) for key in ("ground_truth", "answer") if record.get(key) is not None]
    given = record.get("solutions")
    if not given and not references:
        raise UserError(f"{where}: needs 'solutions' or an 'answer'; it has {', '.join(sorted(record))}")
    if not isinstance(given, list | None) or not all(isinstance(item, dict) for item in given or ()):
        raise UserError(f"{where}: 'solutions' must be a list of objects with solution and is_correct")
    judged = []
    for number, item in enumerate(given or (), 1):
        if not isinstance(item.get("is_correct"), bool):
            got = repr(item.get("is_correct"))
            raise UserError(f"{where}: 'is_correct' of solution {number} must be true or false, got {got:.40}")
        judged.append((_said(item, "solution", f"{where}, solution {number}"), item["is_correct"]))
    return Problem(question, references[0] if references else None, judged)


def _said(record: Mapping[str, Any], key: str, where: str) -> str:
    """A text that says something. Raises UserError where there is none."""
    value = record.get(key)
    if not isinstance(value, str) or not _MARK.sub("", value).strip():
        raise UserError(f"{where}: '{key}' must be text that is not empty, got {value!r:.40}")
    return value.strip()


def _prompt(problem: Problem, test_share: float, salt: str) -> tuple[str, list[dict[str, str]], str]:
    """(prompt id, messages, split) as `preference_files` has them, so that a question is on one side in all tables."""
    text = f"user: {problem.question}"
    return content_hash(text), [{"role": "user", "content": problem.question}], split_of(text, test_share, salt)


def _lines(text: str, marks: bool = False) -> list[str]:
    """The lines of a solution that say something, without marks unless they are asked for."""
    both = [(line, _MARK.sub("", line)) for line in text.strip().replace("\r\n", "\n").split("\n")]
    return [line if marks else plain for line, plain in both if plain.strip()]


def _labelled(lines: Sequence[str], before: float | None, wrong_from: int) -> list[Step]:
    return [{"text": line, "label": before if number < wrong_from else 0.0} for number, line in enumerate(lines)]


def _computed(line: str) -> tuple[str, dict[int, str]]:
    """(the line without marks, {where a computed number is in it: the arithmetic that gives it})."""
    text, end = "", 0
    found: list[tuple[int, str]] = []
    for mark in _MARK.finditer(line):
        text += line[end : mark.start()]
        end = mark.end()
        gap = len(line[end:]) - len(line[end:].lstrip("$€£ "))
        found.append((len(text) + gap, mark[1].rpartition("=")[0]))
    text += line[end:]
    if not found:
        found = [(claim.at, claim.expression) for claim in claims(text)]
    computed = {}
    for at, expression in found:
        number, exact = NUMBER.match(text, at), evaluate(expression)
        if number and exact is not None and agrees(exact, number[0]) and len(NUMBER.findall(expression)) > 1:
            computed[at] = expression
    return text, computed


def _carry(lines: Sequence[str], place: int, factor: Fraction, by: int) -> list[str] | None:
    """The lines without marks, the last number computed in line `place` changed, and all that follows from it.

    None where a number would be no longer above 0, no longer whole, or of a size that nobody computes with.
    """
    texts = []
    changed: dict[Fraction, Fraction] = {}
    for position, line in enumerate(lines):
        text, computed = _computed(line)
        spoiled = max(computed) if position == place else None
        new_text, end = "", 0
        for number in NUMBER.finditer(text) if position >= place else ():
            old, at = evaluate(number[0]), number.start()
            if old is None:
                return None
            new: Fraction | None = changed.get(old, old)
            if at == spoiled:
                new = old * factor + by
            elif at in computed:
                new = _again(computed[at], changed, old)
            if new is None or (new != old and (not 0 < new < _LARGEST or old.denominator == 1 < new.denominator)):
                return None
            written = number[0] if new == old else _written(new, like=number[0])
            if at == spoiled or at in computed:
                changed[old] = read_number(written)
            new_text += text[end:at] + written
            end = number.end()
        texts.append(new_text + text[end:])
    return texts


def _again(expression: str, changed: Mapping[Fraction, Fraction], old: Fraction) -> Fraction | None:
    """The value with the changed numbers; `old`, which may be rounded, where none of them is in it."""
    numbers = [read_number(number) for number in NUMBER.findall(expression)]
    if all(changed.get(number, number) == number for number in numbers):
        return old
    return evaluate(NUMBER.sub(lambda found: f"({changed.get(read_number(found[0]), found[0])})", expression))


def _written(value: Fraction, like: str) -> str:
    """A number with the commas of another, and its decimals or, where they do not do, two."""
    places = len(like.partition(".")[2])
    places = places if (value * 10**places).denominator == 1 else max(places, 2)
    return f"{float(value):{',' if ',' in like else ''}.{places}f}"
