"""Draft, criticise and rewrite."""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

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

    It ends when the criticism is that nothing has to be changed, when a rewrite changes nothing or is empty, or after
    ``rounds``. The last possible rewrite streams as it is made.

    Source: Madaan et al. 2023, "Self-Refine: Iterative Refinement with Self-Feedback".
    """
    prompt, found = await grounded(messages, tools)
    for each in found:
        yield each
    drafted = await whole(tools.generate(prompt, max_tokens=tools.max_tokens))
    yield drafted.thought(drafted.text.strip() + "\n\n")
    draft, complete = drafted.text.strip(), drafted.finished
    for number in range(1, rounds + 1):
        if not draft or tools.budget.spent():
            break
        said = await whole(tools.generate(followed(prompt, draft, critique), max_tokens=critique_tokens))
        yield said.thought(said.text.strip() + "\n\n")
        if not said.text.strip() or _content(said.text) or tools.budget.spent():
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
        draft, complete = rewritten.text.strip(), rewritten.finished
    async with aclosing(conclude(prompt, draft, tools, whole=complete)) as pieces:
        async for piece in pieces:
            yield piece


def _content(criticism: str) -> bool:
    """Whether the criticism is that nothing has to be changed: the word alone, or at the start of a sentence."""
    return re.match(rf"\W*{DONE}\b(?!\s+(?:the|this|your|it)\b)", criticism.strip(), re.IGNORECASE) is not None
