"""Let the model write a program, run it in the sandbox, and answer with what it computes."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

from components.reasoning.conversation import conclude, extended, followed, grounded, last_user
from components.reasoning.events import Found, Message, Piece, Tools
from components.reasoning.metered import whole
from components.reasoning.programs import is_open, source_of
from components.reasoning.sandbox import SandboxLimits, run_program

EXAMPLES = (
    ("What is (19 - 3) * 7 - 25?", "print((19 - 3) * 7 - 25)"),
    (
        "A shelf holds 14 books. Nine are lent out and two boxes of 6 come in. How many books are there now?",
        "books = 14 - 9 + 2 * 6\nprint(books)",
    ),
)
REQUEST = (
    "Write a short Python program that computes the answer and prints it, and nothing else. "
    "Put it between ```python and ```."
)
_AGAIN = "Write a program for the question that was asked, between ```python and ```."


async def program_aided(
    messages: Sequence[Message],
    tools: Tools,
    *,
    attempts: int = 2,
    seconds: float = 2.0,
    memory_mib: int = 64,
    request: str = REQUEST,
) -> AsyncGenerator[Piece | Found, None]:
    """Yield the program and what became of it as reasoning, and what it prints as the answer.

    Two questions with their programs stand before the question as earlier turns: within its own turn, a small model
    takes an example for the question. A program that fails, or that was cut off, goes back to the model with its
    error, ``attempts`` times in all. After that the model answers without one, and ``program_error`` beside the answer
    says so.

    Source: Gao et al. 2022, "PAL: Program-aided Language Models"; Chen et al. 2022, "Program of Thoughts Prompting".
    """
    limits = SandboxLimits(seconds=seconds, memory_mib=memory_mib)
    prompt, found = await grounded(messages, tools)
    for each in found:
        yield each
    asked, error = with_examples(prompt, request), "no program was run"
    for _ in range(attempts):
        written = await whole(tools.generate(asked, max_tokens=tools.max_tokens))
        yield written.thought(written.text.strip() + "\n\n")
        source = source_of(written.text)
        if not source:
            error = "ValueError: there is no program in the reply"
        elif source in dict(EXAMPLES).values():
            error = "ValueError: that is an example's program"
        elif not written.finished and is_open(written.text):
            error = "ValueError: the program was cut off before its end, write a shorter one"
        elif not tools.budget.take("tool_calls"):
            error = "no more programs are allowed to run"
            break
        else:
            outcome = await run_program(source, limits.within(tools.budget.seconds_left()))
            error = outcome.error or ("" if outcome.value else "ValueError: the program prints nothing")
            yield Piece(f"{outcome.value or error}\n\n", "reasoning")
            if not error:
                async with aclosing(conclude(prompt, outcome.value, tools)) as pieces:
                    async for piece in pieces:
                        yield piece
                return
        if tools.budget.spent():
            break
        asked = followed(
            with_examples(prompt, request), written.text.strip() or "…", f"That fails: {error}\n\n{_AGAIN}"
        )
    said: dict[str, Any] = {"program_error": error}
    yield Piece(extra=said)
    async with aclosing(tools.generate(prompt, max_tokens=tools.max_tokens, final=True)) as answer:
        async for piece in answer:
            yield piece


def with_examples(prompt: Sequence[Message], request: str = REQUEST) -> list[Message]:
    """Return the conversation with the examples before its last question, and ``request`` behind each of them."""
    asked, at = extended(prompt, request), last_user(prompt)
    shown: list[Message] = []
    for question, program in EXAMPLES:
        shown.append({"role": "user", "content": f"{question}\n\n{request}"})
        shown.append({"role": "assistant", "content": f"```python\n{program}\n```"})
    return [*asked[:at], *shown, *asked[at:]]
