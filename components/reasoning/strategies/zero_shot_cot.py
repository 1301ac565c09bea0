"""Think step by step first, then answer."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial

from components.reasoning.budget import reasoning_share, what_is_left
from components.reasoning.conversation import extended, grounded, last_user, or_else
from components.reasoning.events import Found, Message, Piece, Tools
from components.reasoning.extract import extract

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
    around = partial(_with_thoughts, trigger=trigger, thought="…")  # real thoughts count as the answer's tokens
    prompt, found = await grounded(messages, tools, around)
    for each in found:
        yield each
    allowed = tools.budget.cap(tools.max_tokens)
    share = reasoning_share(allowed, max_reasoning_tokens)
    thought, used = "", 0
    async with aclosing(tools.generate(extended(prompt, trigger), max_tokens=share)) as thoughts:
        async for piece in thoughts:
            thought += piece.text
            used += piece.completion_tokens
            # The reasoning's end is not the answer's, and its log-probabilities are not the content's.
            yield replace(piece, channel="reasoning", finish_reason=None, extra={})
    limit = what_is_left(allowed, used)
    answer_to = _with_thoughts(prompt, trigger, thought)
    ending = or_else(tools.generate(answer_to, max_tokens=limit, final=True), extract(thought))
    async with aclosing(ending) as answer:
        async for piece in answer:
            yield piece


def _with_thoughts(messages: Sequence[Message], trigger: str, thought: str) -> list[Message]:
    """Return the conversation with the exchange of ``trigger`` and ``thought`` before its last user turn."""
    if not thought.strip():
        return list(messages)
    last = last_user(messages)
    exchange = [extended(messages[: last + 1], trigger)[-1], {"role": "assistant", "content": thought.strip()}]
    return [*messages[:last], *exchange, *messages[last:]]
