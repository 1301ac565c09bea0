"""Draft, criticise and rewrite."""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from components.reasoning.budget import Budget
from components.reasoning.conversation import conclude, followed, grounded
from components.reasoning.events import Found, Message, Piece, Tools
from components.reasoning.metered import whole

DONE = "CORRECT"
CRITIQUE = (
    f"Check your answer step by step. If nothing has to be changed, reply with the one word {DONE}. "
    "Otherwise say what is wrong, and how to put it right."
)
REWRITE = "Now write the improved answer, and nothing else."


async def self_refine(
    messages: Sequence[Message],
    tools: Tools,
    *,
    rounds: int = 2,
    critique: str = CRITIQUE,
    rewrite: str = REWRITE,
    critique_tokens: int = 128,
) -> AsyncGenerator[Piece | Found, None]:
    """Yield drafts and criticism as reasoning, and the last draft as the answer.

    It ends when the criticism is that nothing has to be changed, when a rewrite changes nothing, is empty or was cut
    off, or after ``rounds``. No rewrite begins with less of the budget left than the draft took: it might replace a
    whole answer by a part of one. The last possible rewrite streams as it is made.

    Source: Madaan et al. 2023, "Self-Refine: Iterative Refinement with Self-Feedback".
    """
    prompt, found = await grounded(messages, tools)
    for each in found:
        yield each
    began = tools.budget.seconds_left()
    drafted = await whole(tools.generate(prompt, max_tokens=tools.max_tokens))
    took_s = (began or 0.0) - (tools.budget.seconds_left() or 0.0)
    yield drafted.thought(drafted.text.strip() + "\n\n")
    draft, complete = drafted.text.strip(), drafted.finished
    for number in range(1, rounds + 1):
        if not draft or tools.budget.spent():
            break
        said = await whole(tools.generate(followed(prompt, draft, critique), max_tokens=critique_tokens))
        yield said.thought(said.text.strip() + "\n\n")
        if not said.text.strip() or _content(said.text):
            break
        if not _has_room(tools.budget, drafted.completion_tokens, took_s):
            break
        again = followed(followed(prompt, draft, critique), said.text.strip(), rewrite)
        if number == rounds:
            text = ""
            async with aclosing(tools.generate(again, max_tokens=tools.max_tokens, final=True)) as pieces:
                async for piece in pieces:
                    text += piece.text
                    yield piece
            if text.strip():
                return
            break
        rewritten = await whole(tools.generate(again, max_tokens=tools.max_tokens))
        yield rewritten.thought(rewritten.text.strip() + "\n\n")
        if not rewritten.text.strip() or rewritten.text.split() == draft.split():
            break
        if complete and not rewritten.finished:
            break
        draft, complete = rewritten.text.strip(), rewritten.finished
    async with aclosing(conclude(prompt, draft, tools, whole=complete)) as pieces:
        async for piece in pieces:
            yield piece


def _has_room(budget: Budget, tokens: int, seconds: float) -> bool:
    """Return whether the budget has that much left for a rewrite; where not, the limit has stopped it."""
    left, left_s = budget.cap(None), budget.seconds_left()
    if left is not None and left < tokens:
        budget.stop("tokens")
    elif left_s is not None and left_s < seconds:
        budget.stop("seconds")
    else:
        return not budget.spent()
    return False


def _content(criticism: str) -> bool:
    """Whether the criticism is that nothing has to be changed: the word alone, or at the start of a sentence.

    An order ("Correct the sum.") and what would be right ("Correct answer is 12, not 10.") are none.
    """
    goes_on = r"\s+(?:(?:the|this|your|it)\b|(?:answer|value|result|number)\s*(?:\b(?:is|was|would|should)\b|=|:))"
    return re.match(rf"\W*{DONE}\b(?!{goes_on})", criticism.strip(), re.IGNORECASE) is not None
