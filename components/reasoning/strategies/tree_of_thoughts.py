"""Search through steps of thought: several at each turn, the good ones followed, the bad ones left."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal

from components.config import UserError
from components.reasoning.conversation import conclude, extended, grounded, last_user, or_else
from components.reasoning.events import Found, Message, Piece, Tools
from components.reasoning.extract import extract
from components.reasoning.tree import Grower, State


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """Return what has to be handed in with these options."""
    return frozenset({"score"} if options.get("value") == "scores" else ())


async def tree_of_thoughts(
    messages: Sequence[Message],
    tools: Tools,
    *,
    search: Literal["beam", "depth_first"] = "beam",
    depth: int = 3,
    breadth: int = 3,
    beam: int = 2,
    value: Literal["model", "scores"] = "model",
    threshold: float = 0.3,
    temperature: float = 0.8,
    thought_tokens: int = 64,
) -> AsyncGenerator[Piece | Found, None]:
    """Yield the thoughts with their values as reasoning, then the answer that the best ones lead to.

    ``beam``: all kept states grow by one step at a time, ``breadth`` proposals each, and the best ``beam`` are kept.
    ``depth_first``: the best child is followed first; children below ``threshold`` are cut off (one whose judgement
    cannot be read is not), and a dead end goes back to the next best. A state is worth what the model says (sure,
    likely, impossible) or a reward model's score.

    Source: Yao et al. 2023, "Tree of Thoughts: Deliberate Problem Solving with Large Language Models", algorithms 1
    and 2.

    Raises:
        UserError: states are to be valued by scores, and there is no scorer.
    """
    if value == "scores" and tools.score is None:
        raise UserError("tree_of_thoughts values states by scores, and there is no reward model: set scorer=…")
    prompt, found = await grounded(messages, tools)
    for each in found:
        yield each
    grower = Grower(prompt, tools, breadth, thought_tokens, temperature, value == "scores")
    reached: list[State] = []
    if search == "beam":
        walk = _beam(grower, depth, beam, reached)
    else:
        walk = _depth_first(grower, State(), depth, threshold, reached)
    async with aclosing(walk) as thoughts:
        async for thought in thoughts:
            yield thought
    answered = [state for state in reached if state.answer]
    best = max(answered or reached, key=lambda state: (state.value, len(state.thoughts)), default=State())
    if best.answer:
        ending = conclude(prompt, best.answer, tools)
    else:
        asked = tools.generate(_with_steps(prompt, best), max_tokens=tools.max_tokens, final=True)
        ending = or_else(asked, extract("\n".join(best.thoughts)))
    async with aclosing(ending) as pieces:
        async for piece in pieces:
            yield piece


async def _beam(grower: Grower, depth: int, beam: int, reached: list[State]) -> AsyncGenerator[Piece, None]:
    """Search breadth first; ``reached`` ends as the states of the last beam."""
    kept = [State()]
    for _ in range(depth):
        growing = [state for state in kept if not state.answer]
        if not growing or grower.tools.budget.spent():
            break
        grown: list[State] = []
        async with aclosing(grower.children(growing, grown)) as thoughts:
            async for thought in thoughts:
                yield thought
        candidates = [state for state in kept if state.answer] + grown
        if not candidates:
            break
        kept = sorted(candidates, key=lambda state: -state.value)[:beam]
    reached.extend(kept)


async def _depth_first(
    grower: Grower, state: State, depth: int, threshold: float, reached: list[State]
) -> AsyncGenerator[Piece, None]:
    """Search depth first until an answer is found; ``reached`` collects the leaves that were not cut off."""
    grown: list[State] = []
    async with aclosing(grower.children([state], grown)) as thoughts:
        async for thought in thoughts:
            yield thought
    promising = [child for child in grown if child.unread or child.value >= threshold]
    if not promising and state.thoughts:
        yield Piece(f"back from: {state.thoughts[-1]}\n", "reasoning")
    if grower.tools.budget.stopped_by:  # what is answered already must not wait for what nobody can follow
        reached.extend(child for child in promising if child.answer)
    if any(leaf.answer for leaf in reached):
        return
    for child in sorted(promising, key=lambda child: -child.value):
        if child.answer or depth == 1:
            reached.append(child)
        elif not grower.tools.budget.spent():
            async with aclosing(_depth_first(grower, child, depth - 1, threshold, reached)) as thoughts:
                async for thought in thoughts:
                    yield thought
        else:
            reached.append(child)
        if any(leaf.answer for leaf in reached) or grower.tools.budget.stopped_by:
            return


def _with_steps(prompt: Sequence[Message], state: State) -> list[Message]:
    """Return the prompt with the state's steps before its last user turn, as an earlier exchange."""
    if not state.thoughts:
        return list(prompt)
    at = last_user(prompt)
    asked = extended(prompt[: at + 1], "Which steps lead to the answer?")[-1]
    return [*prompt[:at], asked, {"role": "assistant", "content": "\n".join(state.thoughts)}, *prompt[at:]]
