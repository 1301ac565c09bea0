"""Show worked examples that are close to the question, then answer as they do."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Literal

from components.config import UserError
from components.reasoning.budget import within
from components.reasoning.conversation import ANSWER_MARK, Splitter, conclude, grounded, last_user
from components.reasoning.events import Found, Message, Piece, Tools, last_question
from components.reasoning.extract import extract, options


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """Return what has to be handed in with these options."""
    return frozenset({"similar"} if options.get("choose", "similar") == "similar" else ())


async def few_shot_cot(
    messages: Sequence[Message],
    tools: Tools,
    *,
    examples: list[dict[str, str]],
    shots: int = 4,
    choose: Literal["similar", "first"] = "similar",
) -> AsyncGenerator[Piece | Found, None]:
    """Put ``shots`` of the ``examples`` (question, reasoning, answer) before the question as earlier turns.

    The closest one stands last, right before the question. An example with the very question is left out. What the
    model writes before `Answer:` is reasoning, what is behind it streams as content.

    Source: Wei et al. 2022, "Chain-of-Thought Prompting Elicits Reasoning in Large Language Models"; choice by
    similarity: Liu et al. 2021, "What Makes Good In-Context Examples for GPT-3?".

    Raises:
        UserError: examples are chosen by similarity, and there is no embedder; or there is none.
    """
    question = last_question(messages)
    usable = [example for example in examples if example["question"].split() != question.split()]
    if not usable:
        raise UserError("few_shot_cot has no examples: give a file or table of question, reasoning and answer")
    if choose == "similar":
        if tools.similar is None:
            raise UserError("few_shot_cot chooses examples by similarity, and there is no embedder: set embedder=…")
        closeness = await within(tools.budget, tools.similar(question, [example["question"] for example in usable]))
        order = sorted(range(len(usable)), key=lambda place: closeness[place] if closeness else -place)
        usable = [usable[place] for place in order[-shots:]]
    shown = [turn for example in usable[:shots] for turn in _turns(example)]
    prompt, found = await grounded(messages, tools, partial(_behind, shown))
    for each in found:
        yield each
    asked = _behind(shown, prompt)
    splitter, reason = Splitter(ANSWER_MARK), None
    async with aclosing(tools.generate(asked, max_tokens=tools.max_tokens)) as pieces:
        async for piece in pieces:
            reason = piece.finish_reason or reason
            for told in splitter.feed(piece):
                if told.channel == "reasoning" or not tools.formatted:
                    yield told
    for told in splitter.rest():
        yield told
    if splitter.found and not tools.formatted:
        return
    answer = extract(splitter.text, options(question))
    if reason == "length" and not tools.formatted:
        yield Piece(answer, finish_reason="length")
        return
    async with aclosing(conclude(prompt, answer, tools)) as pieces:
        async for piece in pieces:
            yield piece


def _behind(shown: Sequence[Message], prompt: Sequence[Message]) -> list[Message]:
    """Return the prompt with the examples before its last user turn."""
    at = last_user(prompt)
    return [*prompt[:at], *shown, *prompt[at:]]


def _turns(example: Mapping[str, str]) -> list[Message]:
    """Return an example as the question and the answer of a conversation."""
    worked = f"{example.get('reasoning', '').strip()}\n{ANSWER_MARK} {example['answer'].strip()}".strip()
    return [{"role": "user", "content": example["question"]}, {"role": "assistant", "content": worked}]
