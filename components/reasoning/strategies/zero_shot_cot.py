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
    """Write reasoning pieces for the prompt that ends in ``trigger``, then the answer that has read them.

    Both prompts begin alike up to the end of the question, so the second one finds its passages in the
    engine's prefix cache. Tokens of both count against the client's limit.

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
    answer_prompt = _extended(prompt, f"Thoughts: {thought.strip()}") if thought.strip() else prompt
    async with aclosing(tools.generate(answer_prompt, max_tokens=what_is_left(tools.max_tokens, used))) as answer:
        async for piece in answer:
            yield piece


def _extended(messages: Sequence[Message], addition: str) -> list[Message]:
    """Return the conversation with ``addition`` at the end of its last user turn."""
    extended = list(messages)
    for index in range(len(extended) - 1, -1, -1):
        if extended[index].get("role") == "user":
            extended[index] = {**extended[index], "content": f"{text_of(extended[index])}\n\n{addition}"}
            return extended
    return [*extended, {"role": "user", "content": addition}]
