"""Says that one does not know where the index found nothing to answer from, without asking the model."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from components.data.grounding import ABSTENTION
from components.reasoning.events import Found, Message, Piece, Strategy, Tools, last_question


async def abstaining(
    strategy: Strategy, messages: Sequence[Message], tools: Tools
) -> AsyncGenerator[Piece | Found, None]:
    """Yield the strategy's events, or the abstention where no passage that was found is strong enough.

    A passage that does not say whether it is, as in modes without a threshold, counts as strong.
    """
    if tools.retrieve is not None:
        found = await tools.retrieve(last_question(messages))
        if not any(passage.get("answerable", True) for passage in found):
            yield Found(tuple(found))
            yield Piece(ABSTENTION, finish_reason="stop")
            return
    async with aclosing(strategy(messages, tools)) as events:
        async for event in events:
            yield event
