"""Which of several solutions of a question are right: by its known answer, or by what most of them say."""

from collections.abc import Sequence

from components.reasoning.extract import extract, known, options, same
from components.reasoning.votes import Tally


def by_answer(question: str, answer: str, texts: Sequence[str]) -> list[bool | None]:
    """Return whether each text's final answer is the known one; a text without a final answer is wrong."""
    choices = options(question)
    right = known(answer, choices)
    found = (extract(text, choices) for text in texts)
    return [bool(said) and same(said, right, mathematics=True) for said in found]


def by_vote(question: str, texts: Sequence[str], least_share: float) -> list[bool | None]:
    """Return whether each text says what most of them say; None for all where fewer than ``least_share`` do, or as
    many say something else.

    The losers of a vote are taken as wrong: that needs no known answer, and is only as good as the vote.

    Source: Huang et al. 2022, "Large Language Models Can Self-Improve".
    """
    choices = options(question)
    tally = Tally(same)
    for place, text in enumerate(texts):
        tally.add(extract(text, choices), place)
    ranking = tally.ranking()
    tied = len(ranking) > 1 and len(ranking[1].voters) == len(ranking[0].voters)
    if not ranking or tied or len(ranking[0].voters) < least_share * len(texts):
        return [None] * len(texts)
    return [place in ranking[0].voters for place in range(len(texts))]
