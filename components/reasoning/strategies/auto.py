"""Choose the strategy for each question from what was measured."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from components.config import UserError
from components.reasoning.events import Found, Message, Piece, Tools, last_question
from components.reasoning.measured import choose, kind_of, read_table


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """Return what has to be handed in for the strategies of the table."""
    from components.reasoning.menu import needs as needs_of

    found, rows = frozenset[str](), read_table(options["table"]).rows
    if not any(row.as_chosen for row in rows):
        raise UserError(
            "every strategy in the table of auto was measured with a temperature or budget of its own, which auto does "
            "not give it: measure one without"
        )
    for row in rows:
        if row.strategy == "auto":
            raise UserError("the table of auto has auto itself in it: measure strategies that answer themselves")
        if row.as_chosen:
            found |= needs_of(row.strategy, row.options)
    return found


async def auto(
    messages: Sequence[Message], tools: Tools, *, table: dict[str, Any]
) -> AsyncGenerator[Piece | Found, None]:
    """Answer with the strategy that the table says is best value for this kind of question and what may be spent.

    The strategy's name goes before its reasoning, and into ``strategy`` beside the answer.
    """
    from components.reasoning.menu import strategy

    row = choose(read_table(table).rows, kind_of(last_question(messages)), tools.budget.cap(None))
    chosen: dict[str, Any] = {"strategy": row.name}
    yield Piece(extra=chosen)
    async with aclosing(strategy(row.strategy, row.options)(messages, tools)) as events:
        async for event in events:
            yield event
