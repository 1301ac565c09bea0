"""How many of the passages that were found have room in a prompt, by the tokens of the model that reads it."""

from collections.abc import Callable, Sequence

from components.data.chat import ChatTemplate
from components.reasoning.events import Around, Message, Passage, text_of
from components.serving.errors import ApiError

_SPARE = 200  # tokens that a strategy's own requests ("Write a short Python program …") add to the prompt
_EVERY_TEMPLATE = ("system", "user", "assistant")  # roles that it knows without more fields than the text


class PromptRoom:
    """The engine's context, and the template that says how much of it a conversation takes."""

    def __init__(self, template: ChatTemplate, context_tokens: int) -> None:
        self._template, self._context_tokens = template, context_tokens

    def fitting(
        self,
        passages: Sequence[Passage],
        grounded: Callable[[Sequence[Passage]], Sequence[Message]],
        answer_tokens: int,
        most: int | None,
        *,
        direct: bool,
        around: Around | None = None,
    ) -> list[Passage]:
        """Return the first passages, as many as leave room for the answer.

        Args:
            grounded: the prompt over passages.
            answer_tokens: longest answer.
            most: longest prompt, in tokens; none is what the context leaves.
            direct: whether the prompt is sent as it is, with nothing of a strategy's own.
            around: makes a strategy's longest request of the prompt; none where that is a few words longer.

        Raises:
            ApiError: not one of them has room.
        """
        left = self._context_tokens - answer_tokens - (0 if direct else _SPARE)
        room = left if most is None else min(left, most)
        for count in range(len(passages), 0, -1):
            prompt = list(grounded(passages[:count]))
            if self._tokens(prompt) <= room and (around is None or self._tokens(around(prompt)) <= left):
                return list(passages[:count])
        if not passages:
            return []
        raise ApiError(
            400,
            f"This model answers from passages, and the conversation leaves no room for one: a prompt may have {room} "
            f"tokens beside an answer of {answer_tokens}, of a context length of {self._context_tokens}. Shorten the "
            "conversation or lower max_tokens.",
            code="context_length_exceeded",
            param="messages",
        )

    def _tokens(self, messages: Sequence[Message]) -> int:
        # A tool's or a developer's message counts as a user's: it is about as long, and not every template has them.
        plain = [
            {"role": message["role"] if message["role"] in _EVERY_TEMPLATE else "user", "content": text_of(message)}
            for message in messages
        ]
        return len(self._template.prompt_ids(plain))
