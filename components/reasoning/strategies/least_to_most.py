"""Break a question down into simpler ones, answer them in turn, and then the question itself."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from components.reasoning.conversation import extended, grounded, last_user, lines_of, or_else
from components.reasoning.events import Found, Message, Piece, Tools, text_of
from components.reasoning.extract import extract
from components.reasoning.metered import whole

REQUEST = (
    "Do not answer yet. Which simpler questions have to be answered first, the simplest one first? "
    "Write one a line, numbered."
)


async def least_to_most(
    messages: Sequence[Message],
    tools: Tools,
    *,
    parts: int = 4,
    part_tokens: int = 96,
    request: str = REQUEST,
) -> AsyncGenerator[Piece | Found, None]:
    """Ask for at most ``parts`` simpler questions, answer each with those before it in sight, then stream the answer.

    Without a list that can be read the question is answered at once. The tokens of the answer are kept back from
    those that the budget leaves, and parts that do not fit are left out.

    Source: Zhou et al. 2022, "Least-to-Most Prompting Enables Complex Reasoning in Large Language Models".
    """
    prompt, found = await grounded(messages, tools)
    for each in found:
        yield each
    listed = await whole(tools.generate(extended(prompt, request), max_tokens=_share(tools, part_tokens)))
    yield listed.thought(listed.text.strip() + "\n\n")
    questions = lines_of(listed.text)[:parts]
    at, solved = last_user(prompt), list[Message]()
    original = text_of(prompt[at])
    for question in questions:
        if not tools.budget.affords(part_tokens):
            break
        asked = [*prompt[:at], *solved, _turn(original, question)]
        part = await whole(tools.generate([*asked, *prompt[at + 1 :]], max_tokens=_share(tools, part_tokens)))
        yield part.thought(f"{question}\n{part.text.strip()}\n\n")
        if part.text.strip():
            solved += [_turn(original, question), {"role": "assistant", "content": part.text.strip()}]
    said = extract(text_of(solved[-1])) if solved else ""
    answering = tools.generate([*prompt[:at], *solved, *prompt[at:]], max_tokens=tools.max_tokens, final=True)
    async with aclosing(or_else(answering, said)) as answer:
        async for piece in answer:
            yield piece if piece.channel == "content" else replace(piece, finish_reason=None)


def _turn(original: str, question: str) -> Message:
    return {"role": "user", "content": f"{original}\n\nFirst: {question}"}


def _share(tools: Tools, part_tokens: int) -> int:
    """How long one part may be: at most half of what is left."""
    left = tools.budget.cap(None)
    return part_tokens if left is None else max(1, min(part_tokens, left // 2))
