"""Answer at once."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from components.reasoning.conversation import grounded
from components.reasoning.events import Found, Message, Piece, Tools


async def direct(messages: Sequence[Message], tools: Tools) -> AsyncGenerator[Piece | Found, None]:
    """Answer the conversation at once, over retrieved passages where there is an index."""
    prompt, found = await grounded(messages, tools)
    for each in found:
        yield each
    async with aclosing(tools.generate(prompt, max_tokens=tools.max_tokens, final=True)) as answer:
        async for piece in answer:
            yield piece
