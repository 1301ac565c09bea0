"""Which questions become demonstrations, which get compared answers, and which are kept for the test."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.config import Config, Field, UserError
from components.data.grounding import abstains
from components.data.judge import judge
from components.data.records import Question
from components.data.split import refuse_leaks


class Sizes(Config):
    """How much is made; a small corpus gives less."""

    demonstrations: int = Field(260, ge=1, description="questions with a reference answer, to train on")
    pair_prompts: int = Field(110, ge=1, description="other training questions whose answers are compared")
    pairs: int = Field(140, ge=1, description="preference pairs to train on")
    test_questions: int = Field(220, ge=1, description="questions that no training sees")
    test_pairs: int = Field(60, ge=1, description="held-out pairs, about as many of the test questions")


@dataclass(frozen=True)
class Selection:
    """Disjoint sets of questions; `compared_test` is part of `test`."""

    demonstrated: list[Question]
    compared: list[Question]
    test: list[Question]
    compared_test: list[Question]

    @property
    def questions(self) -> list[Question]:
        """All of them, once."""
        return [*self.demonstrated, *self.compared, *self.test]


def select(contexts: Sequence[Sequence[Question]], sizes: Sizes) -> Selection:
    """Take whole contexts, in their order, for one use each.

    Where the corpus has too few for the sizes, demonstrations and comparisons shrink alike.

    Raises:
        UserError: one of the splits would be empty, or a prompt or a passage is on both sides.
    """
    train = [list(own) for own in contexts if own[0].split == "train"]
    test = [list(own) for own in contexts if own[0].split == "test"]
    if len(train) < 2 or not test:
        raise UserError(
            f"the passages give {len(train)} contexts to train on and {len(test)} to test on, and both are needed: "
            "index more documents, or change questions.test_share or questions.split_salt"
        )
    available = sum(map(len, train))
    share = min(1.0, available / (sizes.demonstrations + sizes.pair_prompts))
    demonstrated = _take(train, max(1, int(share * sizes.demonstrations)))
    compared = _take(train, max(1, int(share * sizes.pair_prompts)))
    tested = _take(test, sizes.test_questions)
    stride = max(1, len(tested) // sizes.test_pairs)
    selection = Selection(demonstrated, compared, tested, tested[::stride][: sizes.test_pairs])
    _check(selection)
    return selection


def figures(
    selection: Selection, pairs: Sequence[Mapping[str, Any]], samples: Mapping[str, Sequence[str]]
) -> dict[str, float]:
    """Counts by kind and split, and how good the sampled answers are (their mean score)."""
    counts: Counter[str] = Counter()
    for question in selection.questions:
        counts[f"questions/{question.split}"] += 1
        counts[f"questions/{question.split}/{question.kind}"] += 1
    for pair in pairs:
        counts[f"pairs/{pair['split']}"] += 1
        counts[f"pairs/{pair['split']}/{pair['source'].replace(':', '/')}"] += 1
    counts["demonstrations/train"] = len(selection.demonstrated)
    values = {name: float(number) for name, number in counts.items()}
    values["questions/answerable_share"] = sum(q.answerable for q in selection.test) / len(selection.test)
    by_id = {question.prompt_id: question for question in selection.questions}
    scored = [judge(text, by_id[key]).score for key, texts in samples.items() for text in texts]
    if scored:
        values["samples/score"] = sum(scored) / len(scored)
        said = [text for texts in samples.values() for text in texts]
        values["samples/abstention_share"] = sum(map(abstains, said)) / len(said)
    return values


def sample_text(selection: Selection, pairs: Sequence[Mapping[str, Any]], count: int = 20) -> str:
    """Some questions and pairs for people to read."""
    lines = []
    for question in selection.questions[:: max(1, len(selection.questions) // count)][:count]:
        lines += [
            f"## {question.kind}, {question.split}",
            question.prompt[-1]["content"],
            f"-> {question.reference}",
            "",
        ]
    for pair in pairs[:: max(1, len(pairs) // count)][:count]:
        lines += [f"## pair: {pair['kind']}, rejected is {pair['source']}", pair["prompt"][-1]["content"]]
        lines.append(f"+ ({pair['chosen_score']:.2f}) {pair['chosen'][0]['content']}")
        lines += [f"- ({pair['rejected_score']:.2f}) {pair['rejected'][0]['content']}", ""]
    return "\n".join(lines)


def _take(contexts: list[list[Question]], count: int) -> list[Question]:
    """The first `count` questions; the contexts they come from are removed."""
    taken: list[Question] = []
    while contexts and len(taken) < count:
        taken += contexts.pop(0)
    return taken[:count]


def _check(selection: Selection) -> None:
    """Refuse a selection in which the test could have been trained on."""
    train = selection.demonstrated + selection.compared
    if not selection.compared:
        raise UserError("too few training questions to compare answers: index more documents, or lower sizes")
    refuse_leaks([q.prompt_id for q in train], [q.prompt_id for q in selection.test], "prompts")
    shown, shown_test = ([p["passage_id"] for q in side for p in q.passages] for side in (train, selection.test))
    refuse_leaks(shown, shown_test, "passages")
