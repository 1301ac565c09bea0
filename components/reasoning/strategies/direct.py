"""Answer at once."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from components.reasoning.events import Found, Message, Piece, Tools, last_question


async def direct(messages: Sequence[Message], tools: Tools) -> AsyncGenerator[Piece | Found, None]:
    """Answer the conversation at once, over retrieved passages where there is an index."""
    prompt = list(messages)
    if tools.retrieve is not None:
        found = Found(tuple(await tools.retrieve(last_question(messages))))
        yield found
        prompt = tools.ground(messages, found.passages)
    async with aclosing(tools.generate(prompt, max_tokens=tools.max_tokens)) as answer:
        async for piece in answer:
            yield piece
