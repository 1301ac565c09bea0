"""Think step by step first, then answer."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from components.reasoning.budget import reasoning_share, what_is_left
from components.reasoning.events import Found, Message, Piece, Tools, last_question, text_of

TRIGGER = "Let's think step by step."


async def zero_shot_cot(
    messages: Sequence[Message], tools: Tools, *, max_reasoning_tokens: int = 96, trigger: str = TRIGGER
) -> AsyncGenerator[Piece | Found, None]:
    """Write reasoning pieces for the prompt that ends in ``trigger``, then answer the prompt as it was trained.

    The thoughts stay between the two as an earlier exchange: the answer has read them, and its own prompt is
    word for word the one without reasoning. It goes on where the engine's prefix cache already is. Tokens of
    both count against the client's limit.

    Source: Kojima et al. 2022, "Large Language Models are Zero-Shot Reasoners", section 3.
    """
    prompt = list(messages)
    if tools.retrieve is not None:
        found = Found(tuple(await tools.retrieve(last_question(messages))))
        yield found
        prompt = tools.ground(messages, found.passages)
    share = reasoning_share(tools.max_tokens, max_reasoning_tokens)
    thought, used = "", 0
    async with aclosing(tools.generate(_extended(prompt, trigger), max_tokens=share)) as thoughts:
        async for piece in thoughts:
            thought += piece.text
            used += piece.completion_tokens
            # The reasoning's end is not the answer's, and its log-probabilities are not the content's.
            yield replace(piece, channel="reasoning", finish_reason=None, extra={})
    limit = what_is_left(tools.max_tokens, used)
    async with aclosing(tools.generate(_with_thoughts(prompt, trigger, thought), max_tokens=limit)) as answer:
        async for piece in answer:
            yield piece


def _last_user(messages: Sequence[Message]) -> int:
    """Return the index of the last user turn; of the last message if there is no user turn."""
    users = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    return users[-1] if users else len(messages) - 1


def _extended(messages: Sequence[Message], addition: str) -> list[Message]:
    """Return the conversation with ``addition`` at the end of its last user turn."""
    last = _last_user(messages)
    asked = {**messages[last], "content": f"{text_of(messages[last])}\n\n{addition}"}
    return [*messages[:last], asked, *messages[last + 1 :]]


def _with_thoughts(messages: Sequence[Message], trigger: str, thought: str) -> list[Message]:
    """Return the conversation with the exchange of ``trigger`` and ``thought`` before its last user turn."""
    if not thought.strip():
        return list(messages)
    last = _last_user(messages)
    exchange = [_extended(messages[: last + 1], trigger)[-1], {"role": "assistant", "content": thought.strip()}]
    return [*messages[:last], *exchange, *messages[last:]]
