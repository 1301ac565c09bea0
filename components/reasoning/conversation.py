"""How strategies build on a client's messages: passages first, requests at the end, the answer last."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from components.reasoning.events import Found, Message, Piece, Tools, last_question, text_of

FORMAT_REQUEST = "Now give this answer, and nothing else, in the format that was asked for."


async def grounded(messages: Sequence[Message], tools: Tools) -> tuple[list[Message], list[Found]]:
    """Return the prompt, over retrieved passages where there is an index, and what was found to be yielded."""
    if tools.retrieve is None:
        return list(messages), []
    found = Found(tuple(await tools.retrieve(last_question(messages))))
    return tools.ground(messages, found.passages), [found]


def last_user(messages: Sequence[Message]) -> int:
    """Return the index of the last user turn; of the last message if there is no user turn."""
    users = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    return users[-1] if users else len(messages) - 1


def extended(messages: Sequence[Message], addition: str) -> list[Message]:
    """Return the conversation with ``addition`` at the end of its last user turn."""
    last = last_user(messages)
    asked = {**messages[last], "content": f"{text_of(messages[last])}\n\n{addition}"}
    return [*messages[:last], asked, *messages[last + 1 :]]


def followed(messages: Sequence[Message], said: str, request: str) -> list[Message]:
    """Return the conversation with the model's ``said`` and then the user's ``request`` behind it."""
    return [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": request}]


async def conclude(prompt: Sequence[Message], answer: str, tools: Tools) -> AsyncGenerator[Piece, None]:
    """Yield an answer that is decided already; the model writes it out where the client wants it in a format.

    Args:
        prompt: what the answer is to.
    """
    if not tools.formatted:
        yield Piece(answer, finish_reason="stop")
        return
    request = followed(prompt, answer, FORMAT_REQUEST)
    async with aclosing(tools.generate(request, max_tokens=tools.max_tokens, final=True)) as pieces:
        async for piece in pieces:
            yield piece
