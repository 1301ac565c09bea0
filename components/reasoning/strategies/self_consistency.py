"""Sample several chains of thought and take the answer that most of them reach."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal

from components.config import UserError
from components.reasoning.budget import within
from components.reasoning.conversation import STEPS_REQUEST, conclude, extended, grounded
from components.reasoning.events import Found, Message, Piece, Tools, last_question
from components.reasoning.extract import extract, options, same
from components.reasoning.metered import Sample, draw
from components.reasoning.votes import Tally, weight_of


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """Return what has to be handed in with these options."""
    return frozenset({"score"} if options.get("weights") == "scores" else ())


async def self_consistency(
    messages: Sequence[Message],
    tools: Tools,
    *,
    samples: int = 8,
    temperature: float = 0.7,
    at_once: int | None = None,
    confidence: float | None = None,
    weights: Literal["equal", "scores"] | None = None,
    request: str = STEPS_REQUEST,
    show: Literal["answer", "sample"] = "answer",
) -> AsyncGenerator[Piece | Found, None]:
    """Yield the chains as reasoning as they end, then the answer with most votes.

    The samples run at the same time (``at_once`` of them) and share their prompt in the engine's cache. Those that
    still run are cancelled once the vote is decided: for certain, or with ``confidence`` with that probability. A
    chain that was cut off votes only where none was finished. With ``weights`` scores (what none is where there is a
    scorer), a vote weighs the logistic function of its chain's score; votes are equal where the budget's time is over
    before all scores are there. ``show`` sample answers with the whole first chain of the winner.

    Source: Wang et al. 2022, "Self-Consistency Improves Chain of Thought Reasoning in Language Models".

    Raises:
        UserError: votes are to be weighted by scores, and there is no scorer.
    """
    if weights == "scores" and tools.score is None:
        raise UserError("self_consistency weighs votes by scores, and there is no reward model: set scorer=…")
    prompt, found = await grounded(messages, tools)
    for each in found:
        yield each
    asked, choices = extended(prompt, request), options(last_question(messages))
    tally, drawn = Tally(same), dict[int, Sample]()
    scorer = tools.score if _weighs(weights, tools) else None
    chains = draw([asked] * samples, tools, max_tokens=tools.max_tokens, temperature=temperature, at_once=at_once)
    async with aclosing(chains) as ending:
        async for sample in ending:
            drawn[sample.index] = sample
            yield sample.thought(f"{sample.text.strip()}\n\n")
            if sample.finished:
                scored = await within(tools.budget, scorer(asked, [sample.text])) if scorer else None
                if scorer and scored is None:  # the time is over: from here on, and so far, votes are equal
                    scorer, tally = None, _equal(tally)
                weight = weight_of(scored[0]) if scored else 1.0
                tally.add(extract(sample.text, choices), sample.index, weight)
            if tally.decided(samples - len(drawn), confidence):
                break
    if not tally.ballots:
        for sample in drawn.values():
            tally.add(extract(sample.text, choices), sample.index)
    if not tally.ballots:  # nothing can be counted: what was said is what there is
        said = max((sample.text.strip() for sample in drawn.values()), key=len, default="")
        finished = any(sample.finished for sample in drawn.values())
        async with aclosing(conclude(prompt, said, tools, whole=finished)) as pieces:
            async for piece in pieces:
                yield piece
        return
    winner = tally.ranking()[0]
    votes = sum(len(ballot.voters) for ballot in tally.ballots)
    yield Piece(f"{len(winner.voters)} of {votes} votes: {winner.answer}", "reasoning")
    shown = drawn[winner.voters[0]]
    answer = winner.answer if show == "answer" else shown.text.strip()
    async with aclosing(conclude(prompt, answer, tools, whole=show == "answer" or shown.finished)) as pieces:
        async for piece in pieces:
            yield piece


def _equal(tally: Tally) -> Tally:
    """Return the same votes, each of the weight 1."""
    equal = Tally(same)
    for ballot in tally.ballots:
        for voter in ballot.voters:
            equal.add(ballot.answer, voter)
    return equal


def _weighs(weights: str | None, tools: Tools) -> bool:
    return weights != "equal" and tools.score is not None
