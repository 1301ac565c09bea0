"""Demonstrations and preference pairs from questions: candidates are scored by the judge, then paired."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.config import Config, Field
from components.data.grounding import ABSTENTION, cite, shown, without_citations
from components.data.judge import judge
from components.data.records import Question, content_hash


class PairConfig(Config):
    """How candidates become pairs."""

    per_prompt: int = Field(2, ge=1, description="most pairs with the same prompt")
    margin: float = Field(0.2, gt=0, le=1, description="least difference of the two scores")
    sampled_share: float = Field(
        0.4, ge=0, le=1, description="share of pairs whose worse answer is the model's, as far as it has any"
    )


@dataclass(frozen=True)
class Candidate:
    """One answer to a question, where it came from, and the judge's score in [0, 1]."""

    text: str
    source: str  # reference | sample | perturbed:<how>
    score: float


def demonstration(question: Question) -> dict[str, Any]:
    """The row of the `demonstrations` table: the question's prompt with its reference answer."""
    return {
        "prompt_id": question.prompt_id,
        "prompt": question.prompt,
        "completion": _assistant(question.reference),
        "kind": question.kind,
        "split": question.split,
        "source": "reference",
    }


def perturbations(question: Question) -> Iterator[tuple[str, str]]:
    """(how, answer) of plausible wrong answers: the reference spoiled in one way each."""
    others = [i for i in range(1, len(question.passages) + 1) if i != question.target]
    plain = without_citations(question.reference)
    shift = int(question.prompt_id[:8], 16)
    other = others[shift % len(others)]
    if question.answerable:
        yield "wrong_citation", cite(other, plain)
        yield "wrong_passage", cite(other, _claim(question, other))
        yield "abstains", ABSTENTION
        extra = [_claim(question, i) for i in others]
        yield "rambles", f"{question.reference} {' '.join(extra)} {plain} The passages above say so: {plain}"
    else:
        yield "answers_anyway", cite(other, _claim(question, other))
        second = others[(shift + 1) % len(others)]
        yield "answers_another", cite(second, _claim(question, second))


def candidates(question: Question, samples: Sequence[str]) -> list[Candidate]:
    """The reference, the samples and the perturbations of one question, scored, without repeats."""
    texts = [(question.reference, "reference")]
    texts += [(text, "sample") for text in samples if text.strip()]
    texts += [(text, f"perturbed:{how}") for how, text in perturbations(question)]
    found: dict[str, Candidate] = {}
    for text, source in texts:
        found.setdefault(" ".join(text.split()), Candidate(text, source, judge(text, question).score))
    return list(found.values())


def make_pairs(
    questions: Sequence[Question], samples: Mapping[str, Sequence[str]], limit: int, config: PairConfig
) -> list[dict[str, Any]]:
    """At most `limit` rows of the `preferences` table: the best answer against worse ones.

    `samples` holds the model's answers by prompt id. Every prompt gives one pair before any gives a second;
    the ways of spoiling an answer take turns, so that none dominates.
    """
    used: Counter[str] = Counter()
    worse: dict[str, list[Candidate]] = {}
    best: dict[str, Candidate] = {}
    for question in questions:
        found = candidates(question, samples.get(question.prompt_id, ()))
        best[question.prompt_id] = max(found, key=lambda c: (c.score, c.source == "reference"))
        limit_score = best[question.prompt_id].score - config.margin
        worse[question.prompt_id] = [c for c in found if c.score <= limit_score + 1e-9]
    pairs: list[dict[str, Any]] = []
    for _ in range(config.per_prompt):
        for question in questions:
            options = worse[question.prompt_id]
            if len(pairs) == limit:
                return pairs
            if options:
                wants_sample = used["sample"] < config.sampled_share * (len(pairs) + 1)
                pick = min(options, key=lambda c: ((c.source == "sample") != wants_sample, used[c.source], c.text))
                options.remove(pick)
                used[pick.source] += 1
                pairs.append(_pair(question, best[question.prompt_id], pick))
    return pairs


def _claim(question: Question, position: int) -> str:
    """What a model says that takes passage `position` for the right one."""
    passage = question.passages[position - 1]
    kind = question.kind.removeprefix("missing_")
    if kind == "which":
        return f"It is `{passage['title']}`."
    text = passage["text"].removeprefix(shown("", passage["title"]))
    first = text.split(". ")[0].rstrip(".")
    if kind == "cloze":
        return f"The word is `{max(first.split(), key=len).strip('.,;:()')}`."
    return f"{first}."


def _pair(question: Question, chosen: Candidate, rejected: Candidate) -> dict[str, Any]:
    """The row of one pair."""
    return {
        "pair_id": content_hash(question.prompt_id, chosen.text, rejected.text),
        "prompt_id": question.prompt_id,
        "prompt": question.prompt,
        "chosen": _assistant(chosen.text),
        "rejected": _assistant(rejected.text),
        "chosen_score": chosen.score,
        "rejected_score": rejected.score,
        "kind": question.kind,
        "source": rejected.source,
        "split": question.split,
    }


def _assistant(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]
