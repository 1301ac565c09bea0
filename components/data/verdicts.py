"""A language model as judge: which of two answers is better, asked in both orders.

Judges like what they are shown first (or second), whatever it says. So each pair is shown both ways round, and counts
only if the same answer wins both times; how often it does not is a figure of the run, as is how often the judge says
something that is no verdict.

Source: position bias and the swap against it, Zheng et al. 2023 (arXiv 2306.05685).
"""

import itertools
import random
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import field_validator

from components.config import Config, Field, UserError

Generate = Callable[[Sequence[str]], Sequence[str]]  # what the judge is told → what it says
PARTS = ("prompt", "first", "second")
TEMPLATE = """Two assistants have answered the same request. Which answer is better: more correct, and closer to what \
was asked for? Length and style do not matter, nor does the order in which the answers stand.

[Request]
{prompt}

[Answer A]
{first}

[Answer B]
{second}

Reply with one letter and nothing else: A if answer A is better, B if answer B is better, C if they are equally good."""
VERDICT = r"\s*\W{0,2}([ABC])\W{0,2}\s*"
_PART = re.compile(r"\{(prompt|first|second)\}")


class ComparisonConfig(Config):
    """How a judge is asked to compare, and how its reply is read."""

    template: str = Field(TEMPLATE, description="what it is told, with {prompt}, {first} and {second} once each")
    verdict: str = Field(
        VERDICT,
        description="regular expression that the whole reply has to match; its one group is A, B or C (equal). For a "
        r"judge that thinks first: .*\[\[([ABC])\]\]\s*",
    )
    comparisons: int = Field(6, ge=1, description="most pairs of answers to one prompt that are compared, both ways")

    @field_validator("template")
    @classmethod
    def _has_its_parts(cls, template: str) -> str:
        counts = Counter(_PART.findall(template))
        if wrong := [part for part in PARTS if counts[part] != 1]:
            raise UserError(f"judge.llm.template has {{{wrong[0]}}} {counts[wrong[0]]} times: write it once")
        return template

    @field_validator("verdict")
    @classmethod
    def _has_one_group(cls, verdict: str) -> str:
        try:
            groups = re.compile(verdict).groups
        except re.error as error:
            raise UserError(f"judge.llm.verdict {verdict!r} is no regular expression: {error}") from error
        if groups != 1:
            raise UserError(f"judge.llm.verdict {verdict!r} has {groups} groups: give it one, around the letter")
        return verdict


@dataclass(frozen=True)
class Judged:
    """What a judge makes of the answers to one prompt."""

    scores: list[float]  # of each answer; more is better
    better: frozenset[tuple[int, int]] | None = None  # (better, worse) that count; none: whatever scores tell apart


def ask(config: ComparisonConfig, prompt: Sequence[Mapping[str, str]], first: str, second: str) -> str:
    """Return what the judge is told; braces in the texts stay as they are."""
    turns = [message["content"] for message in prompt]
    if len(turns) > 1:
        turns = [f"{message['role']}: {message['content']}" for message in prompt]
    values = {"prompt": "\n\n".join(turns), "first": first, "second": second}
    return _PART.sub(lambda part: values[part[1]], config.template)


def read(config: ComparisonConfig, reply: str) -> str | None:
    """Return the verdict, A, B or C; none where the reply is not one, whatever letters are in it."""
    found = re.fullmatch(config.verdict, reply, re.DOTALL)
    return found[1] if found and found[1] in ("A", "B", "C") else None


def compare(
    prompts: Sequence[Sequence[Mapping[str, str]]],
    answers: Sequence[Sequence[str]],
    generate: Generate,
    config: ComparisonConfig,
    seed: int,
) -> tuple[list[Judged], dict[str, float]]:
    """Return what the judge makes of the answers to each prompt, and how it judged.

    An answer's score is the share of its comparisons that it wins in both orders, one that nobody wins (equal both
    times, or another winner when swapped) counting half; one with a reply that is no verdict does not count at all.
    With more pairs than ``comparisons``, as many are drawn by ``seed``.

    Figures: ``judge/comparisons``, and as shares of them ``judge/agreed`` (the same winner both times), ``judge/equal``
    (equal both times), ``judge/swapped`` (anything else) and ``judge/unparsable``; ``judge/first`` is the share of
    all verdicts for one answer that are for the first one shown: 0.5 where order does not matter.
    """
    rng = random.Random(seed)
    asked: list[tuple[int, int, int]] = []
    for number, own in enumerate(answers):
        pairs = list(itertools.combinations(range(len(own)), 2))
        chosen = rng.sample(pairs, config.comparisons) if len(pairs) > config.comparisons else pairs
        asked += [(number, a, b) for a, b in chosen]
    told = [
        ask(config, prompts[number], answers[number][first], answers[number][second])
        for number, a, b in asked
        for first, second in ((a, b), (b, a))
    ]
    verdicts = [read(config, reply) for reply in generate(told)]
    assert len(verdicts) == len(told), "the judge replies to everything that it is told"
    counts: Counter[str] = Counter(f"said {verdict}" for verdict in verdicts)
    points: list[dict[int, list[float]]] = [{at: [] for at in range(len(own))} for own in answers]
    better: list[set[tuple[int, int]]] = [set() for _ in answers]
    for (number, a, b), plain, swapped in zip(asked, verdicts[::2], verdicts[1::2], strict=True):
        kind, winner = _outcome(plain, swapped)
        counts[kind] += 1
        if winner:
            better[number].add((a, b) if winner == "A" else (b, a))
        if kind != "unparsable":
            points[number][a].append({"A": 1.0, "B": 0.0}.get(winner or "", 0.5))
            points[number][b].append({"A": 0.0, "B": 1.0}.get(winner or "", 0.5))
    judged = [
        Judged([sum(values) / len(values) if values else 0.5 for values in own.values()], frozenset(pairs))
        for own, pairs in zip(points, better, strict=True)
    ]
    return judged, _figures(counts, len(asked))


def _outcome(plain: str | None, swapped: str | None) -> tuple[str, str | None]:
    """Return how a comparison came out, and its winner by the names of the first order."""
    if plain is None or swapped is None:
        return "unparsable", None
    back = {"A": "B", "B": "A", "C": "C"}[swapped]
    if plain != back:
        return "swapped", None
    return ("equal", None) if plain == "C" else ("agreed", plain)


def _figures(counts: Mapping[str, int], comparisons: int) -> dict[str, float]:
    found = {"judge/comparisons": float(comparisons)}
    for kind in ("agreed", "equal", "swapped", "unparsable"):
        found[f"judge/{kind}"] = counts.get(kind, 0) / max(1, comparisons)
    first, second = counts.get("said A", 0), counts.get("said B", 0)
    return found | ({"judge/first": first / (first + second)} if first + second else {})
