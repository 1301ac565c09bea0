"""Search, see what is still open, search for that, and answer when there is enough."""

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from components.config import UserError
from components.reasoning.conversation import conclude, extended, last_user, lines_of
from components.reasoning.events import Found, Message, Piece, Tools, last_question
from components.reasoning.metered import whole
from components.reasoning.searches import Passages, in_order

ENOUGH = "ENOUGH"
PLAN = (
    "Do not answer yet. Which questions have to be looked up that these passages do not answer? Write at most {parts}, "
    "one a line, numbered, the first to look up first; each has to make sense by itself. "
    f"If the passages hold all that the answer needs, reply with the one word {ENOUGH}."
)


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """Return what has to be handed in."""
    return frozenset({"retrieve"})


async def agentic_rag(
    messages: Sequence[Message],
    tools: Tools,
    *,
    searches: int = 4,
    parts: int = 3,
    passages: int = 12,
    step_tokens: int = 96,
) -> AsyncGenerator[Piece | Found, None]:
    """Search up to ``searches`` times for what is still open, then stream the answer over all that was found.

    The question itself is searched for first. After each search the model sees all passages and what was searched
    for, and lists the questions that are open (``parts`` at most, the first one is next), or says that it has enough.
    A list that cannot be read, or that asks for nothing new, leaves the one before it. Passages have one number over
    all searches, so that a citation means the same wherever it was written; there are at most ``passages`` of them.
    Each step, and the answer, sees the first of them, as many as have room in its prompt. Each search is a tool call
    of the budget.
    Searching also ends when another round would leave the answer fewer tokens than ``step_tokens``, or less time than
    a round has taken.
    ``search`` beside the answer tells what was searched for, and what ended it: enough, searches, passages, budget,
    questions (there was none that is new), or failure (of a search after the first).

    Source: Trivedi et al. 2022, "Interleaving Retrieval with Chain-of-Thought Reasoning for Knowledge-Intensive
    Multi-Step Questions"; Press et al. 2022, "Measuring and Narrowing the Compositionality Gap in Language Models"
    (self-ask): each search is for a question that the model asks itself. Here the list of questions is made anew
    after each search, and nothing is answered before the end.

    Raises:
        UserError: there is no index.
    """
    if tools.retrieve is None:
        raise UserError("agentic_rag answers from an index, and there is none: set index=… and `search` with the name")
    hunt = _Hunt(messages, tools, searches, parts, step_tokens, Passages(tools, passages))
    async with aclosing(hunt.run()) as hunting:
        async for piece in hunting:
            yield piece
    found = tuple(tools.fit(messages, hunt.passages.found))
    yield Found(found)
    yield Piece(extra={"search": {"questions": hunt.asked, "ended_by": hunt.ended_by}})
    prompt, written = tools.ground(messages, found), ""
    ending = (
        tools.generate(prompt, max_tokens=tools.max_tokens, final=True)
        if found
        else conclude(prompt, tools.unknown, tools)
    )
    async with aclosing(ending) as pieces:
        async for piece in pieces:
            written += piece.text if piece.channel == "content" else ""
            yield piece
    if not written.strip() and not tools.formatted:  # the budget, or the model, left no answer at all
        yield Piece(tools.unknown)


@dataclass
class _Hunt:
    """The searches for one answer."""

    messages: Sequence[Message]
    tools: Tools
    searches: int
    parts: int
    step_tokens: int
    passages: Passages
    asked: list[str] = field(default_factory=list)  # what was searched for
    ended_by: str = "questions"

    async def run(self) -> AsyncGenerator[Piece, None]:
        """Search until there is enough, or until something ends it; yield what was searched for and what is open."""
        open_questions, longest_s = [last_question(self.messages)], 0.0
        while open_questions:
            began = self.tools.budget.seconds_left()
            if not self.tools.budget.take("tool_calls"):
                self.ended_by = "budget"
                return
            query = open_questions.pop(0)
            yield Piece(f"search: {query}\n", "reasoning")
            if failure := await self._search(query):
                yield Piece(f"it failed: {failure}\n", "reasoning")
                self.ended_by = "failure"
                return
            if ended := self._ended(max(longest_s, self._seconds_since(began))):
                self.ended_by = ended
                return
            said = await whole(self.tools.generate(self._request(), max_tokens=self.step_tokens))
            yield said.thought(f"{said.text.strip()}\n")
            if _is_enough(said.text):
                self.ended_by = "enough"
                return
            open_questions = self._new(_questions(said.text))[: self.parts] or self._new(open_questions)
            longest_s = max(longest_s, self._seconds_since(began))
            if not open_questions and self.tools.budget.stopped_by:
                self.ended_by = "budget"

    async def _search(self, query: str) -> str | None:
        """Search, and return how it failed where there is something to answer from without it.

        Without a passage a failure is the request's: that one does not know would be no true answer then.
        """
        self.asked.append(query)
        try:
            await self.passages.retrieve(query)
        except Exception as error:
            if not self.passages.found:
                raise
            return type(error).__name__
        return None

    def _ended(self, round_s: float) -> str | None:
        """Return what keeps another question from being asked and searched for, if anything does.

        Args:
            round_s: what the longest round has taken, in seconds; the next one, and then the answer, may take as long.
        """
        budget = self.tools.budget
        if len(self.asked) >= self.searches and not budget.stopped_by:
            return "searches"
        if self.passages.full():
            return "passages"
        left_s = budget.seconds_left()
        if left_s is not None and left_s < 2 * round_s:
            budget.stop("seconds")
        return "budget" if budget.stopped_by or not budget.affords(self.step_tokens) else None

    def _request(self) -> list[Message]:
        """Return the conversation up to its question, with the passages and what is asked about them."""
        shown = self.tools.fit(self.messages, self.passages.found)
        listed = in_order(shown, self.tools) or "(none)"
        searched = "\n".join(f"- {query}" for query in self.asked)
        request = f"Passages:\n{listed}\n\nSearched for already:\n{searched}\n\n{PLAN.format(parts=self.parts)}"
        return extended(self.messages[: last_user(self.messages) + 1], request)

    def _new(self, questions: Sequence[str]) -> list[str]:
        """Return the questions that were not searched for yet, each once."""
        known, new = {_key(query) for query in self.asked}, list[str]()
        for one in questions:
            if _key(one) not in known:
                known.add(_key(one))
                new.append(one)
        return new

    def _seconds_since(self, began: float | None) -> float:
        """Return how much of the time that was left is spent; 0 where there is no limit."""
        left = self.tools.budget.seconds_left()
        return 0.0 if began is None or left is None else began - left


def _questions(text: str) -> list[str]:
    """Return the questions in a reply: its list, or else the lines that end as questions do."""
    return lines_of(text) or [line.strip() for line in text.splitlines() if line.strip().endswith("?")]


def _is_enough(text: str) -> bool:
    """Return whether a reply says that there is enough: by the word at its start, or in capitals without a question."""
    if re.match(rf"[\W\d]*{ENOUGH}\b", text, re.IGNORECASE):
        return True
    return re.search(rf"\b{ENOUGH}\b", text) is not None and not _questions(text)


def _key(question: str) -> str:
    return " ".join(re.findall(r"\w+", question.casefold()))
