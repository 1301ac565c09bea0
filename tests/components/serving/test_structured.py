"""Answers in a client's schema, and tools that a request may name: what is kept to, and what is refused."""

import asyncio
import json

import pytest

from components.reasoning.events import Piece
from components.serving.errors import ApiError
from components.serving.requests import ChatRequest
from components.serving.structured import as_json, composed


@pytest.mark.parametrize("tools", [[{"type": "function"}], [{"function": {"name": "f", "parameters": "x"}}]])
def test_tools_that_are_none_are_the_clients_error(tools):
    with pytest.raises(ValueError, match="tool 0"):
        ChatRequest(model="m", messages=[{"role": "user", "content": "?"}], tools=tools)


def test_tools_that_are_not_to_be_called_are_not_offered():
    tools = [{"type": "function", "function": {"name": "f", "parameters": None}}]
    assert ChatRequest(model="m", messages=[{"role": "user", "content": "?"}], tools=tools).functions() == tuple(tools)
    assert (
        ChatRequest(model="m", messages=[{"role": "user", "content": "?"}], tools=tools, tool_choice="none").functions()
        == ()
    )


@pytest.mark.parametrize(
    ("pieces", "kind", "written"),
    [
        ([Piece("It is ", "reasoning"), Piece("The sum is 5.", finish_reason="stop")], "integer", 5),
        ([Piece("12\n", finish_reason="stop")], "number", 12),
        ([Piece("five", finish_reason="stop")], "integer", 5),
    ],
)
def test_a_number_is_read_out_of_a_sentence(pieces, kind, written):
    assert json.loads(_as_json(pieces, kind))["answer"] == written


def test_an_answer_that_is_not_there_yet_is_no_number_and_no_error():
    call = Piece(finish_reason="tool_calls", extra={"tool_calls": [{}]})
    assert _as_json([call], "integer") == _as_json([call], "string") == ""
    assert _as_json([Piece("hm", "reasoning"), Piece(finish_reason="length")], "integer").startswith(
        '{"reasoning": "hm'
    )
    with pytest.raises(ApiError, match="whole number"):
        _as_json([Piece("blue", finish_reason="stop")], "integer")


def test_a_schema_with_more_than_types_is_the_engines_to_keep():
    def asked(answer):
        fields = {"reasoning": {"type": "string"}, "answer": answer}
        return composed({"type": "json_schema", "json_schema": {"schema": {"properties": fields}}})

    assert asked({"type": "integer", "title": "Answer"}) == "integer"
    for more in ({"pattern": "^[A-D]$"}, {"enum": ["A"]}, {"maxLength": 3}, {"const": "A"}):
        assert asked({"type": "string", **more}) is None


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"reasoning": True, "answer": {}}},
        {"properties": {"reasoning": {"type": "string"}, "answer": True}},
        {"properties": ["reasoning", "answer"]},
        True,
        [],
    ],
)
def test_a_schema_of_another_shape_is_the_engines_to_read(schema):
    assert composed({"type": "json_schema", "json_schema": {"schema": schema}}) is None
    assert composed({"type": "json_schema", "json_schema": schema}) is None


def _as_json(pieces, kind):
    async def events():
        for piece in pieces:
            yield piece

    async def collect():
        return "".join([event.text async for event in as_json(events(), kind) if event.channel == "content"])

    return asyncio.run(collect())
