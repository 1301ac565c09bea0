"""An answer as {"reasoning", "answer"}, written while it is made, where a client's JSON schema asks for both."""

import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Literal

from components.reasoning.events import Found, Piece
from components.reasoning.extract import extract
from components.reasoning.quantities import read_quantity
from components.serving.errors import ApiError

Kind = Literal["string", "number", "integer"]
_FIELDS = {"reasoning", "answer"}
_PLAIN = {"type", "title", "description"}


def composed(response_format: Mapping[str, Any] | None) -> Kind | None:
    """Return the type of "answer" where the schema has the fields reasoning (text) and answer and no others.

    Other formats, and answers of other types, are the engine's to keep to.
    """
    if response_format is None or response_format.get("type") != "json_schema":
        return None
    properties: Any = response_format
    for key in ("json_schema", "schema", "properties"):
        properties = properties.get(key) if isinstance(properties, Mapping) else None
    if not isinstance(properties, Mapping) or set(properties) != _FIELDS:
        return None
    if not all(isinstance(own, Mapping) for own in properties.values()):  # true and false are schemas, too
        return None
    if properties["reasoning"].get("type") != "string":
        return None
    if any(set(own) - _PLAIN for own in properties.values()):  # a pattern, a minimum, choices
        return None
    kind = properties["answer"].get("type")
    return kind if kind in ("string", "number", "integer") else None


async def as_json(
    events: AsyncGenerator[Piece | Found, None], kind: Kind, *, reasoning: bool = True
) -> AsyncGenerator[Piece | Found, None]:
    """Yield the events of a strategy with their text as one JSON object; tokens keep their channel.

    Text streams as it comes, an answer that is a number once it is complete.

    Args:
        reasoning: whether the chain is shown; an empty text stands in its place otherwise.

    Raises:
        ApiError: the schema wants a number, and the answer is none.
    """
    opened, answering, answer, reason = False, False, "", None
    async with aclosing(events) as source:
        async for event in source:
            reason = (event.finish_reason if isinstance(event, Piece) else None) or reason
            if isinstance(event, Found) or not event.text:
                yield event
                continue
            if event.channel == "reasoning":
                yield replace(event, text="")
                if reasoning and not answering:
                    yield Piece(_opening(opened) + _escaped(event.text))
                    opened = True
                continue
            answer += event.text
            start = "" if answering else _opening(opened) + '", "answer": ' + ('"' if kind == "string" else "")
            text = start + (_escaped(event.text) if kind == "string" else "")
            opened = answering = True
            yield replace(event, text=text)
    if reason == "tool_calls" and not opened:  # the client's tools go first: there is no answer yet
        return
    if kind != "string" and reason in ("tool_calls", "length") and read_quantity(answer) is None:
        return  # what is cut off is no number yet
    start = "" if answering else _opening(opened) + '", "answer": ' + ('"' if kind == "string" else "")
    yield Piece(start + ('"}' if kind == "string" else _number(answer, kind) + "}"))


def _opening(opened: bool) -> str:
    return "" if opened else '{"reasoning": "'


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _number(answer: str, kind: Kind) -> str:
    quantity = read_quantity(answer) or read_quantity(extract(answer))
    if quantity is None or (kind == "integer" and quantity.value.denominator != 1):
        said = "whole number" if kind == "integer" else "number"
        message = f"The schema asks for a {said}, and the answer is {answer.strip()[:80]!r}."
        raise ApiError(500, message, code="answer_not_in_format", param="response_format")
    whole = quantity.value.denominator == 1
    return str(quantity.value.numerator) if whole else repr(float(quantity.value))
