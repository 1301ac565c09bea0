"""How strategies build on a client's messages: passages first, requests at the end, the answer last."""

import re
import string
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace

from components.reasoning.budget import within
from components.reasoning.events import Around, Found, Message, Piece, Tools, last_question, text_of

ANSWER_MARK = "Answer:"
STEPS_REQUEST = f"Think step by step. Then end with a line that says '{ANSWER_MARK}' and the answer."
FORMAT_REQUEST = "Now give this answer, and nothing else, in the format that was asked for."
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)  # what lower() does may be longer than a text
_LISTED = re.compile(r"^\s*(?:\d+[.):]|[-*•])\s*(.+?)\s*$", re.MULTILINE)


async def grounded(
    messages: Sequence[Message], tools: Tools, around: Around | None = None
) -> tuple[list[Message], list[Found]]:
    """Return the prompt, over retrieved passages where there is an index, and what was found to be yielded.

    Where the time is over before the index answers there are no passages, and nothing more is going to be generated.

    Args:
        around: makes the strategy's longest request of the prompt, where that is more than a few words longer.
    """
    if tools.retrieve is None:
        return list(messages), []
    passages = await within(tools.budget, tools.retrieve(last_question(messages))) or []
    found = Found(tuple(tools.fit(messages, passages, around)))
    return tools.ground(messages, found.passages), [found]


def last_user(messages: Sequence[Message]) -> int:
    """Return the index of the last user turn; of the last message if there is no user turn."""
    users = [index for index, message in enumerate(messages) if message.get("role") == "user"]
    return users[-1] if users else len(messages) - 1


def extended(messages: Sequence[Message], addition: str) -> list[Message]:
    """Return the conversation with ``addition`` at the end of its last user turn."""
    last = last_user(messages)
    asked = {**messages[last], "content": f"{text_of(messages[last])}\n\n{addition}"}
    return [*messages[:last], asked, *messages[last + 1 :]]


def followed(messages: Sequence[Message], said: str, request: str) -> list[Message]:
    """Return the conversation with the model's ``said`` and then the user's ``request`` behind it."""
    return [*messages, {"role": "assistant", "content": said}, {"role": "user", "content": request}]


def lines_of(text: str) -> list[str]:
    """Return what the numbered lines, or those with a bullet, of a text say."""
    return [line for line in _LISTED.findall(text) if line]


async def conclude(
    prompt: Sequence[Message], answer: str, tools: Tools, *, whole: bool = True
) -> AsyncGenerator[Piece, None]:
    """Yield an answer that is decided already; the model writes it out where the client wants it in a format.

    Args:
        prompt: what the answer is to.
        whole: whether the answer is complete, and not one that was cut off while it was written.
    """
    if not tools.formatted:
        yield Piece(answer, finish_reason="stop" if whole else "length")
        return
    request = followed(prompt, answer, FORMAT_REQUEST)
    written = tools.generate(request, max_tokens=tools.max_tokens, final=True)
    async with aclosing(or_else(written, answer)) as pieces:
        async for piece in pieces:
            yield piece


async def or_else(pieces: AsyncGenerator[Piece, None], fallback: str) -> AsyncGenerator[Piece, None]:
    """Yield an answer as it is made, or ``fallback`` where the budget let none of it be written."""
    said = False
    async with aclosing(pieces) as stream:
        async for piece in stream:
            said = said or bool(piece.text.strip() and piece.channel == "content")
            cut_off = piece.finish_reason == "length" and not said
            yield replace(piece, text=piece.text + fallback, channel="content") if cut_off else piece


def marked(text: str, marker: str, begin: int = 0) -> int:
    """Return where ``marker`` (lower case) announces what follows; -1 where it does not.

    It does with a capital, at the start of a line or sentence, and in "final answer:". In the middle of a sentence
    ("the first answer: 24, but …") it is a word like others.
    """
    lower = text.translate(_LOWER)
    at = lower.find(marker, begin)
    while at >= 0:
        before = lower[:at].rstrip(" \t*_#>")
        word = before.split()[-1].lstrip("*_#>") if before.split() else ""
        explicit = (
            text[at].isupper()
            or word == "final"
            or marker.startswith("final")
            or (word == "the" and _opens(before[: -len(word)]))
        )
        if explicit or _opens(before):
            return at
        at = lower.find(marker, at + 1)
    return -1


def _opens(before: str) -> bool:
    """Whether what comes next begins a line or a sentence."""
    before = before.rstrip(" \t*_#>")
    return not before or before[-1] in "\n.!?:;"


class Splitter:
    """Tells, while a text is being written, what comes before a marker from what comes behind it.

    Pieces before it are reasoning, pieces behind it content. What may be the marker's beginning is held back.
    """

    def __init__(self, marker: str) -> None:
        self.marker, self.text = marker.lower(), ""
        self.found, self._began = False, False
        self._shown, self._starts = 0, 0  # characters that were told already, and where the answer starts

    def feed(self, piece: Piece) -> list[Piece]:
        """Return what can be told of the next piece."""
        if piece.channel == "reasoning":
            return [piece]
        self.text += piece.text
        counts = replace(piece, text="", channel="reasoning", finish_reason=None, extra={})
        if self.found:
            before = self._before(piece.completion_tokens)
            content = self._content(replace(piece, completion_tokens=piece.completion_tokens - before))
            return [replace(counts, prompt_tokens=0, completion_tokens=before), content] if before else [content]
        at = marked(self.text, self.marker, self._shown)
        if at < 0:
            told = [replace(counts, text=self._until(self._safe()))]
        else:
            told = [replace(counts, text=self._until(at))]
            self.found, self._shown = True, at + len(self.marker)
            self._starts = self._shown
            told.append(self._content(replace(piece, prompt_tokens=0, completion_tokens=0)))
        return [each for each in told if each.text or each.prompt_tokens or each.completion_tokens]

    def rest(self) -> list[Piece]:
        """Return what is held back once the text is complete."""
        held = "" if self.found else self._until(len(self.text))
        return [Piece(held, "reasoning")] if held else []

    def _before(self, tokens: int) -> int:
        """How many of a generation's tokens are of its reasoning, by the share of its characters."""
        return round(tokens * self._starts / len(self.text))

    def _content(self, piece: Piece) -> Piece:
        behind = self.text[self._shown :]
        if not self._began:  # with its first sign
            behind = behind.lstrip()
            self._began = bool(behind)
        self._shown = len(self.text)
        return replace(piece, text=behind)

    def _safe(self) -> int:
        """How far the text can be shown: up to where the marker may have begun."""
        for length in range(min(len(self.marker) - 1, len(self.text)), 0, -1):
            if self.text.translate(_LOWER).endswith(self.marker[:length]):
                return len(self.text) - length
        return len(self.text)

    def _until(self, end: int) -> str:
        shown, self._shown = self.text[self._shown : end], max(self._shown, end)
        return shown
