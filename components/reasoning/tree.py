"""The parts of a tree of thoughts: states, the thoughts that follow them, and how good a state is."""

import re
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from components.reasoning.budget import within
from components.reasoning.conversation import ANSWER_MARK, extended, marked
from components.reasoning.events import Message, Piece, Tools
from components.reasoning.metered import draw
from components.reasoning.votes import weight_of

PROPOSE = (
    "Write only the next step towards the answer, in one or two sentences. "
    f"If the answer is known by now, write '{ANSWER_MARK}' and the answer instead."
)
JUDGE = "Can these steps lead to the right answer? Reply with one word: sure, likely or impossible."
_WORTH = {"sure": 1.0, "likely": 0.5, "impossible": 0.0}
_UNREAD = 0.25  # a judgement that is none: less than likely, not ruled out
_VERDICT = re.compile(r"\b(sure|likely|impossible)\b", re.IGNORECASE)


@dataclass(frozen=True)
class State:
    """The steps so far, and how good they are, from 0 to 1."""

    thoughts: tuple[str, ...] = ()
    value: float = 0.0
    unread: bool = False  # nobody knows how good they are: ``value`` is a guess

    @property
    def answer(self) -> str | None:
        """The answer that the last step names; none where it names none yet."""
        last = self.thoughts[-1] if self.thoughts else ""
        at = marked(last, ANSWER_MARK.lower())
        named = last[at + len(ANSWER_MARK) :].strip() if at >= 0 else ""
        return named or None

    def shown(self, request: str) -> str:
        """Return the steps and what is asked about them."""
        steps = "\n".join(f"{number}. {thought}" for number, thought in enumerate(self.thoughts, 1))
        return f"Steps so far:\n{steps}\n\n{request}" if steps else request


@dataclass(frozen=True)
class Grower:
    """Grows and judges states for one question."""

    prompt: Sequence[Message]
    tools: Tools
    breadth: int  # thoughts that are proposed for a state
    thought_tokens: int
    temperature: float
    by_scores: bool  # a reward model judges, not the language model

    async def children(self, states: Sequence[State], into: list[State]) -> AsyncGenerator[Piece, None]:
        """Put the states that follow these into ``into``, valued, each once; yield what was thought and its tokens."""
        asked = [extended(self.prompt, state.shown(PROPOSE)) for state in states for _ in range(self.breadth)]
        parents = [state for state in states for _ in range(self.breadth)]
        grown: dict[tuple[str, ...], int] = {}
        proposals = draw(asked, self.tools, max_tokens=self.thought_tokens, temperature=self.temperature)
        async with aclosing(proposals) as thoughts:
            async for sample in thoughts:
                yield sample.thought("")
                thought = " ".join(sample.text.split())
                if not sample.finished and (at := marked(thought, ANSWER_MARK.lower())) >= 0:
                    thought = thought[:at].strip()  # of an answer that was cut off nobody knows the end
                if thought:
                    grown.setdefault((*parents[sample.index].thoughts, thought), sample.index)
        ordered = sorted(grown, key=lambda thoughts: grown[thoughts])
        values: list[float | None] = []
        async with aclosing(self._judge([State(thoughts) for thoughts in ordered], values)) as judging:
            async for piece in judging:
                yield piece
        for chain, value in zip(ordered, values, strict=True):
            state = State(chain, _UNREAD if value is None else value, unread=value is None)
            into.append(state)
            yield Piece(f"({state.value:.2f}) {' / '.join(chain)}\n", "reasoning")

    async def _judge(self, states: Sequence[State], values: list[float | None]) -> AsyncGenerator[Piece, None]:
        """Put each state's value into ``values``; none where the judgement cannot be read, or the budget left none."""
        if self.by_scores and self.tools.score is not None:
            texts = ["\n".join(state.thoughts) for state in states]
            scored = self.tools.score(self.prompt, texts) if texts else None
            scores = await within(self.tools.budget, scored) if scored else None
            values.extend([None] * len(texts) if scores is None else map(weight_of, scores))
            return
        judged: dict[int, float | None] = dict.fromkeys(range(len(states)))
        asked = [extended(self.prompt, state.shown(JUDGE)) for state in states]
        verdicts = draw(asked, self.tools, max_tokens=8, temperature=0.0, counted=False)
        async with aclosing(verdicts) as ending:
            async for sample in ending:
                yield sample.thought("")
                found = _VERDICT.search(sample.text)
                judged[sample.index] = _WORTH[found[1].lower()] if found else None
        values.extend(judged.values())
