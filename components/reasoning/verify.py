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


def by_vote(
    question: str, texts: Sequence[str], least_share: float, finished: Sequence[bool] | None = None
) -> list[bool | None]:
    """Return whether each text says what most of them say; None for all where fewer than ``least_share`` do, or as
    many say something else.

    A text that was cut off has no vote, as its last number is seldom its answer; it is judged by that of the others.
    The losers of a vote are taken as wrong: that needs no known answer, and is only as good as the vote.

    Source: Huang et al. 2022, "Large Language Models Can Self-Improve".

    Args:
        finished: whether each text is whole; none: all are.
    """
    choices = options(question)
    said, votes, tally = [extract(text, choices) for text in texts], finished or [True] * len(texts), Tally(same)
    for place, answer in enumerate(said):
        if votes[place]:
            tally.add(answer, place)
    ranking = tally.ranking()
    tied = len(ranking) > 1 and len(ranking[1].voters) == len(ranking[0].voters)
    if not ranking or tied or len(ranking[0].voters) < least_share * len(texts):
        return [None] * len(texts)
    won, right = ranking[0].voters, ranking[0].answer
    return [place in won or (not votes[place] and same(answer, right)) for place, answer in enumerate(said)]
