"""Search if it is needed, keep the passages that help, and answer only what they say."""

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from components.config import UserError
from components.reasoning.conversation import conclude, extended, followed
from components.reasoning.events import Found, Message, Passage, Piece, Tools, last_question
from components.reasoning.metered import Sample, draw, whole
from components.reasoning.searches import Passages, in_order

DECIDE = "Do not answer yet. Do you have to look something up in the documents to answer this? Reply yes or no."
RELEVANT = "Do not answer yet. Does this passage hold something that helps to answer? Reply yes or no."
SUPPORTED = "Do these passages say everything that this answer says? Reply yes or no."
REWORD = (
    "Do not answer. Searching the documents for this found nothing that helps. "
    "Write better words to search for, on one line, and nothing else."
)
REWRITE = (
    "Not everything in your answer is said by the passages. Write it again, only with what they say, and nothing else. "
    "If they do not hold the answer, reply exactly: {unknown}"
)
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)


def needs(options: Mapping[str, Any]) -> frozenset[str]:
    """Return what has to be handed in."""
    return frozenset({"retrieve"})


async def self_rag(
    messages: Sequence[Message],
    tools: Tools,
    *,
    decide: bool = True,
    rewordings: int = 1,
    rewrites: int = 1,
    verdict_tokens: int = 8,
    reword_tokens: int = 32,
) -> AsyncGenerator[Piece | Found, None]:
    """Answer from passages that were judged to help, if the answer was judged to say no more than they do.

    The verdicts are the model's own, each by one question with yes or no: whether to search (``decide``; without a
    verdict it searches), for each passage whether it helps, of the answer whether the passages support it. If no
    passage helps, the search is worded anew up to ``rewordings`` times; an answer that is not supported is written
    again up to ``rewrites`` times. Then it is the abstention. Verdicts that cannot be read, or that the budget leaves
    no room for, decide nothing: such passages are used where none is known to help, and such an answer is given with
    ``supported`` null beside it, where a supported one has true. Each search is a tool call of the budget.

    Source: Asai et al. 2023, "Self-RAG: Learning to Retrieve, Generate, and Critique through Self-Reflection", its
    four reflections asked for by prompts: no model here was trained to write reflection tokens, a verdict is yes or
    no where the paper grades support in three and usefulness in five, and there is one answer for all passages, not a
    beam over one for each. Wording the search anew where nothing helps, and using passages of which that is not known
    only then: Yan et al. 2024, "Corrective Retrieval Augmented Generation", over the same index instead of the web.

    Raises:
        UserError: there is no index.
    """
    if tools.retrieve is None:
        raise UserError("self_rag answers from an index, and there is none: set index=… and `search` with the name")
    judge = _Judge(messages, tools, verdict_tokens)
    if decide:
        said = await judge.asked(DECIDE)
        needed = _verdict(said.text)
        yield said.thought(f"look something up: {_told(needed)}\n")
        if needed is False:
            yield Found(())
            async with aclosing(tools.generate(messages, max_tokens=tools.max_tokens, final=True)) as pieces:
                async for piece in pieces:
                    yield piece
            return
    async with aclosing(judge.search(rewordings, reword_tokens)) as searching:
        async for piece in searching:
            yield piece
    given = tools.fit(messages, judge.helping or judge.passages.found)
    yield Found(tuple(given))
    prompt = tools.ground(messages, given)
    answer = _Answer(tools.unknown)
    if judge.helping:
        async with aclosing(_written(prompt, given, judge, answer, rewrites)) as writing:
            async for piece in writing:
                yield piece
    if answer.text != tools.unknown:
        yield Piece(extra={"supported": answer.supported})
    async with aclosing(conclude(prompt, answer.text, tools, whole=answer.whole)) as pieces:
        async for piece in pieces:
            yield piece


def _verdict(text: str) -> bool | None:
    """Return the first yes (True) or no (False) in a reply; None where there is neither."""
    found = _VERDICT.search(text)
    return None if found is None else found[1].lower() == "yes"


@dataclass
class _Answer:
    """The answer that is given: the abstention until there is a better one."""

    text: str
    supported: bool | None = None  # None: nobody knows
    whole: bool = True


@dataclass
class _Judge:
    """Searches, and asks the model for its verdicts."""

    messages: Sequence[Message]
    tools: Tools
    verdict_tokens: int
    helping: list[Passage] = field(default_factory=list)  # what the answer is given

    def __post_init__(self) -> None:
        self.passages = Passages(self.tools)

    async def asked(self, request: str) -> Sample:
        """Return the reply to a request at the end of the question."""
        prompt = extended(self.messages, request)
        return await whole(self.tools.generate(prompt, max_tokens=self.verdict_tokens, temperature=0.0))

    async def search(self, rewordings: int, reword_tokens: int) -> AsyncGenerator[Piece, None]:
        """Put the passages that help into ``helping``; yield what was looked for and what was judged of it."""
        query, budget = last_question(self.messages), self.tools.budget
        for left in range(rewordings, -1, -1):
            if not budget.take("tool_calls"):
                return
            try:
                before = len(self.passages.found)
                await self.passages.retrieve(query)
            except Exception as error:
                if not self.passages.found:
                    raise
                yield Piece(f"search for {query!r}: failed ({type(error).__name__})\n", "reasoning")
                return
            fresh = self.passages.found[before:]
            yield Piece(f"search for {query!r}: {len(fresh)} new passages\n", "reasoning")
            async with aclosing(self._grade(fresh)) as grading:
                async for piece in grading:
                    yield piece
            if self.helping or left == 0 or not budget.affords(reword_tokens):
                return
            again = extended(self.messages, REWORD)
            said = await whole(self.tools.generate(again, max_tokens=reword_tokens))
            yield said.thought("")
            lines = [line.strip().strip("\"'") for line in said.text.splitlines() if line.strip()]
            if not lines or lines[0].casefold() == query.casefold():
                return
            query = lines[0]

    async def _grade(self, fresh: Sequence[Passage]) -> AsyncGenerator[Piece, None]:
        """Put those that help into ``helping``, or else those of which the verdict cannot be read."""
        grades: dict[int, bool | None] = dict.fromkeys(range(len(fresh)))
        if fresh and self.tools.budget.affords(self.verdict_tokens * len(fresh)):
            prompts = [
                extended(self.messages, f"Passage:\n{self.tools.show(passage)}\n\n{RELEVANT}") for passage in fresh
            ]
            verdicts = draw(prompts, self.tools, max_tokens=self.verdict_tokens, temperature=0.0, counted=False)
            async with aclosing(verdicts) as ending:
                async for sample in ending:
                    said = _verdict(sample.text)
                    # Who is asked for a verdict and does not know has found nothing in the passage.
                    grades[sample.index] = False if said is None and _abstains(sample.text, self.tools) else said
                    yield sample.thought("")
        for place, helps in grades.items():
            yield Piece(f"- helps: {_told(helps)}: {fresh[place].get('title', '')}\n", "reasoning")
        by_grade = {wanted: [fresh[n] for n, helps in grades.items() if helps is wanted] for wanted in (True, None)}
        self.helping = by_grade[True] or by_grade[None]


async def _written(
    prompt: Sequence[Message], given: Sequence[Passage], judge: _Judge, answer: _Answer, rewrites: int
) -> AsyncGenerator[Piece, None]:
    """Write the answer, judge it and write it again, and leave in ``answer`` what may be given; yield the drafts."""
    tools = judge.tools
    listed = in_order(given, tools)  # what the answer was written over, not all that would have helped
    asked = list(prompt)
    for left in range(rewrites, -1, -1):
        draft = await whole(tools.generate(asked, max_tokens=tools.max_tokens))
        text = draft.text.strip()
        yield draft.thought(f"{text}\n")
        if _abstains(text, tools):
            return
        supported = None
        if text and tools.budget.affords(judge.verdict_tokens):
            said = await judge.asked(f"Passages:\n{listed}\n\nAnswer: {text}\n\n{SUPPORTED}")
            supported = _verdict(said.text)
            yield said.thought(f"supported: {_told(supported)}\n")
        if text and supported is not False:
            answer.text, answer.supported, answer.whole = text, supported, draft.finished
            return
        if left == 0 or tools.budget.spent():
            return
        asked = followed(prompt, text, REWRITE.format(unknown=tools.unknown)) if text else list(prompt)


def _abstains(text: str, tools: Tools) -> bool:
    """Return whether a reply is no more than that one does not know."""
    said, unknown = (" ".join(each.replace("’", "'").casefold().split()) for each in (text, tools.unknown))
    return said.rstrip(".! ") == unknown.rstrip(".! ")


def _told(said: bool | None) -> str:
    return "not known" if said is None else "yes" if said else "no"
