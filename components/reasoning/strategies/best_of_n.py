"""Sample several answers and take the one that a reward model scores highest."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from components.config import UserError
from components.reasoning.budget import within
from components.reasoning.conversation import ANSWER_MARK, STEPS_REQUEST, Splitter, conclude, extended, grounded
from components.reasoning.events import Found, Message, Piece, Tools
from components.reasoning.metered import Sample, draw


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """Return what has to be handed in."""
    return frozenset({"score"})


async def best_of_n(
    messages: Sequence[Message],
    tools: Tools,
    *,
    samples: int = 8,
    temperature: float = 0.8,
    think: bool = False,
    at_once: int | None = None,
) -> AsyncGenerator[Piece | Found, None]:
    """Yield the answer with the highest score; an answer that was cut off or is empty wins only against its like.

    Where the budget's time is over before there are scores, it is the first of the answers.

    With ``think`` each sample reasons first; the winner's reasoning is then told apart from its answer.

    Source: Stiennon et al. 2020, "Learning to summarize from human feedback"; Cobbe et al. 2021, "Training Verifiers
    to Solve Math Word Problems".

    Raises:
        UserError: there is no scorer.
    """
    if tools.score is None:
        raise UserError("best_of_n chooses by a reward model, and there is none: set scorer=…")
    prompt, found = await grounded(messages, tools)
    for each in found:
        yield each
    asked = extended(prompt, STEPS_REQUEST) if think else prompt
    drawn: list[Sample] = []
    chains = draw([asked] * samples, tools, max_tokens=tools.max_tokens, temperature=temperature, at_once=at_once)
    async with aclosing(chains) as ending:
        async for sample in ending:
            drawn.append(sample)
            yield sample.thought("")
    drawn.sort(key=lambda sample: sample.index)
    scores = await within(tools.budget, tools.score(asked, [sample.text for sample in drawn])) if drawn else []
    ranked = sorted(
        zip(drawn, [0.0] * len(drawn) if scores is None else scores, strict=True),
        key=lambda pair: (pair[0].finished and bool(pair[0].text.strip()), pair[1]),
        reverse=True,
    )
    answer = ranked[0][0].text.strip() if ranked else ""
    listed = "none in time" if scores is None else ", ".join(f"{score:.3f}" for _, score in ranked)
    if think and ranked:
        splitter = Splitter(ANSWER_MARK)
        told = [*splitter.feed(Piece(ranked[0][0].text)), *splitter.rest()]
        yield Piece("".join(piece.text for piece in told if piece.channel == "reasoning").strip() + "\n\n", "reasoning")
        if splitter.found:
            answer = "".join(piece.text for piece in told if piece.channel == "content").strip()
    yield Piece(f"scores of {len(ranked)} answers: {listed}", "reasoning")
    whole = not ranked or ranked[0][0].finished
    async with aclosing(conclude(prompt, answer, tools, whole=whole)) as pieces:
        async for piece in pieces:
            yield piece
