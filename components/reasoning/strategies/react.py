"""Think, act with a tool, look at what it says, and go on until the answer is known."""

import json
import re
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from components.reasoning.conversation import Splitter, conclude, extended, followed, last_user, or_else
from components.reasoning.events import Found, Message, Piece, Tools, text_of
from components.reasoning.extract import extract
from components.reasoning.searches import Passages
from components.reasoning.tool_menu import descriptions, tool, use

FINAL, OBSERVATION = "Final Answer:", "Observation:"
_ACTION = re.compile(r"Action\s*:\s*`?([\w.-]+)`?\s*[\[(](.*)[\])]\s*`?\s*$", re.DOTALL | re.IGNORECASE)
_COMPUTING = ("calculator", "code")  # what they say may be the answer
UNREAD = "Error: write one line 'Action: name[argument]', or 'Final Answer:' and the answer"


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """Return what has to be handed in for the tools that are named."""
    return frozenset(need for name in options.get("with_tools", ()) if (need := tool(name)[2]))


async def react(
    messages: Sequence[Message], tools: Tools, *, with_tools: list[str] | None = None, steps: int = 6
) -> AsyncGenerator[Piece | Found, None]:
    """Let the model use ``with_tools`` (none: calculator, code, and search if there is an index) and the client's own.

    A call of one of the client's own functions ends the answer with OpenAI's ``tool_calls``; the client runs it and
    sends its result in a message of the role ``tool``, from which the next request goes on. What is neither an action
    nor an answer, and a tool that fails, is told to the model as an observation. After ``steps``, or at the end of the
    budget, it has to answer with what it knows. The final answer streams as it is made.

    Source: Yao et al. 2022, "ReAct: Synergizing Reasoning and Acting in Language Models".
    """
    named = with_tools if with_tools is not None else ["calculator", "code", *(["search"] if tools.retrieve else [])]
    functions = {function["function"]["name"]: function["function"] for function in tools.functions}
    asked, seen, known = _asked(messages, named, functions), Passages(tools), ""
    for _ in range(steps):
        splitter, told_all = Splitter(FINAL), list[Piece]()
        async with aclosing(tools.generate(asked, max_tokens=tools.max_tokens, stop=(OBSERVATION,))) as pieces:
            async for piece in pieces:
                for told in splitter.feed(piece):
                    if told.channel == "reasoning" or not tools.formatted:
                        yield told
                    else:
                        told_all.append(told)
        for told in [*splitter.rest(), *([] if splitter.found else [Piece("\n", "reasoning")])]:
            yield told
        if splitter.found:
            if tools.formatted:
                answer = "".join(piece.text for piece in told_all).strip()
                async with aclosing(conclude(messages, answer, tools)) as ending:
                    async for piece in ending:
                        yield piece
            return
        if splitter.text.strip() and "action" not in splitter.text.lower():
            known = splitter.text
        if tools.budget.stopped_by:
            break
        called = _action(splitter.text)
        if called and called[0] in functions:
            call, error = _tool_call(*called, functions[called[0]])
            if call and not tools.budget.take("tool_calls"):
                break
            if call:
                yield Piece(finish_reason="tool_calls", extra={"tool_calls": [call]})
                return
            observation = f"Error: {error}"
        elif called and called[0] in named:
            observation = await use(*called, replace(tools, retrieve=seen.retrieve if tools.retrieve else None))
            if called[0] in _COMPUTING and not observation.startswith("Error"):
                known = observation
            if seen.changed():
                yield Found(tuple(seen.found))
        else:
            observation = f"Error: there is no tool '{called[0]}'" if called else UNREAD
        yield Piece(f"{OBSERVATION} {observation}\n", "reasoning")
        asked = followed(asked, splitter.text.strip() or "…", f"{OBSERVATION} {observation}")
        if tools.budget.stopped_by:
            break
    answering = extended(asked, "Answer now with what is known: write the answer, and nothing else.")
    ending = or_else(tools.generate(answering, max_tokens=tools.max_tokens, final=True), extract(known))
    async with aclosing(ending) as pieces:
        async for piece in pieces:
            yield piece


def _asked(messages: Sequence[Message], named: Sequence[str], functions: Mapping[str, Any]) -> list[Message]:
    """Return the conversation with the instructions at its last question, tool calls and results as turns behind it."""
    lines = [descriptions(named)] if named else []
    for name, function in functions.items():
        parameters = json.dumps((function.get("parameters") or {}).get("properties", {}))
        lines.append(f"- {name}[JSON arguments]: {function.get('description', '')} Arguments: {parameters}")
    listed = "\n".join(lines)
    request = (
        f"You can use these tools:\n{listed}\n\nWrite 'Thought:' and what you think, then one line "
        f"'Action: name[argument]' to use a tool. You are told what it says. When you know the answer, write "
        f"'{FINAL}' and the answer."
    )
    at = last_user(messages)
    turns: list[Message] = extended(messages[: at + 1], request)
    for message in messages[at + 1 :]:
        if message.get("role") == "tool":
            turns.append({"role": "user", "content": f"{OBSERVATION} {text_of(message)}"})
        else:
            calls = [call["function"] for call in message.get("tool_calls") or ()]
            said = [text_of(message), *(f"Action: {call['name']}[{call['arguments']}]" for call in calls)]
            turns.append({"role": "assistant", "content": "\n".join(part for part in said if part)})
    return turns


def _action(text: str) -> tuple[str, str] | None:
    """Return the name and the argument of the first action in a text; none where there is none that can be read."""
    start = re.search(r"^\s*Action\s*:", text, re.MULTILINE | re.IGNORECASE)
    if start is None:
        return None
    body = text[start.start() :].strip()
    one_line = _ACTION.match(body.splitlines()[0].strip())
    found = one_line or _ACTION.match(body)
    return (found[1], found[2].strip()) if found else None


def _tool_call(name: str, argument: str, function: Mapping[str, Any]) -> tuple[dict[str, Any] | None, str]:
    """Return OpenAI's tool call, or why the argument does not fit the function's parameters."""
    schema = function.get("parameters") or {}
    properties = schema.get("properties") or {}
    try:
        arguments = json.loads(argument or "{}")
    except ValueError:
        arguments = argument
    if not isinstance(arguments, dict):
        if len(properties) != 1:
            return None, f"{name} takes a JSON object with {', '.join(properties) or 'no arguments'}"
        arguments = {next(iter(properties)): arguments}
    missing = [key for key in schema.get("required", ()) if key not in arguments]
    unknown = [key for key in arguments if properties and key not in properties]
    if missing or unknown:
        wrong = f"lacks '{missing[0]}'" if missing else f"has no argument '{unknown[0]}'"
        return None, f"{name} {wrong}"
    call = {"name": name, "arguments": json.dumps(arguments)}
    return {"index": 0, "id": f"call_{uuid.uuid4().hex[:24]}", "type": "function", "function": call}, ""
