"""What strategies share that search by themselves: passages that are numbered once, and searches that end in time."""

from collections.abc import Sequence

from components.reasoning.budget import within
from components.reasoning.events import Passage, Tools


class Passages:
    """The passages that the searches for one answer found, each with its number for citations."""

    def __init__(self, tools: Tools, most: int | None = None) -> None:
        """Begin without a passage.

        Args:
            most: passages that are taken in over all searches; none: all.
        """
        self._tools, self._most, self._told = tools, most, 0
        self.found: list[Passage] = []

    async def retrieve(self, question: str) -> Sequence[Passage]:
        """Return what is found for a question, numbered from 1 over all searches; nothing where the time is over."""
        numbered = []
        for passage in await self._search(question):
            known = [old["passage_id"] for old in self.found]
            if passage["passage_id"] not in known:
                if self.full():
                    continue
                self.found.append(passage)
                known.append(passage["passage_id"])
            numbered.append({**passage, "number": known.index(passage["passage_id"]) + 1})
        return numbered

    def changed(self) -> bool:
        """Return whether there are passages that were not there when this was asked last."""
        told, self._told = self._told, len(self.found)
        return told != self._told

    def full(self) -> bool:
        """Return whether no further passage is taken in."""
        return self._most is not None and len(self.found) >= self._most

    async def _search(self, question: str) -> Sequence[Passage]:
        """Return what the index finds; an index that does not answer must not cost more time than there is."""
        retrieve, budget = self._tools.retrieve, self._tools.budget
        assert retrieve is not None, "only handed on where there is an index"
        return await within(budget, retrieve(question)) or []


def in_order(passages: Sequence[Passage], tools: Tools) -> str:
    """Return passages as ``numbered`` does, each with its place among them, from 1, as its number."""
    return numbered([{**one, "number": place} for place, one in enumerate(passages, 1)], tools)


def numbered(passages: Sequence[Passage], tools: Tools) -> str:
    """Return passages as prompts may show them, one a line, each after its number where it has one."""
    lines = []
    for passage in passages:
        number = f"[{passage['number']}] " if "number" in passage else ""
        lines.append(number + tools.show(passage))
    return "\n".join(lines)
