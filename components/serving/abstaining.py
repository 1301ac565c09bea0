"""Says that one does not know where the index found nothing to answer from, without asking the model."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from components.data.grounding import ABSTENTION
from components.reasoning.budget import within
from components.reasoning.events import Found, Message, Piece, Strategy, Tools, last_question


async def abstaining(
    strategy: Strategy, messages: Sequence[Message], tools: Tools
) -> AsyncGenerator[Piece | Found, None]:
    """Yield the strategy's events, or the abstention where no passage that was found is strong enough.

    A passage that does not say whether it is, as in modes without a threshold, counts as strong.
    """
    if tools.retrieve is not None:
        found = await within(tools.budget, tools.retrieve(last_question(messages)))
        # An index that did not answer in time has not found nothing: the strategy ends with the budget then.
        if found is not None and not any(passage.get("answerable", True) for passage in found):
            yield Found(tuple(found))
            yield Piece(ABSTENTION, finish_reason="stop")
            return
    async with aclosing(strategy(messages, tools)) as events:
        async for event in events:
            yield event
