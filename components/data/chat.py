"""The chat template and the label mask: one object that data, training and serving share.

Prompt and completion are tokenized apart and joined, because that is what a served model sees: the
prompt's ids arrive first, then it generates. A completion ends in the turn-end token, which carries loss,
whatever the padding token is.
"""

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError

Message = Mapping[str, str]
ROLES = ("system", "user", "assistant", "tool")
IGNORED = -100  # the label of a token that carries no loss, as torch's cross entropy reads it
_PROBE = "sentinel answer"


@dataclass(frozen=True)
class Example:
    """One tokenized prompt with its completion; ``labels`` is IGNORED on the prompt and ``input_ids`` after it."""

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class Pair:
    """One tokenized prompt with the two completions that were compared."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]


class ChatTemplate:
    """Renders and tokenizes conversations exactly as training and serving both see them."""

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a transformers tokenizer.

        Raises:
            UserError: it has no chat template, or one whose assistant turn ends in no special token.
        """
        if not getattr(tokenizer, "chat_template", None):
            name = getattr(tokenizer, "name_or_path", "the tokenizer")
            raise UserError(f"{name} has no chat template: use an instruct model or add chat_template.jinja")
        self.tokenizer = tokenizer
        self.turn_end_id = self._find_turn_end()

    @classmethod
    def from_folder(cls, folder: str | Path) -> "ChatTemplate":
        """Return the template of a model folder in Hugging Face format.

        Raises:
            UserError: the folder holds no tokenizer, or its tokenizer no usable chat template.
        """
        from transformers import AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} holds no tokenizer that can be read: {error}".splitlines()[0]) from error
        return cls(tokenizer)

    @property
    def pad_id(self) -> int:
        """The id that fills a batch; it may equal the turn end, as masks, not ids, say what is padding."""
        pad = self.tokenizer.pad_token_id
        return self.turn_end_id if pad is None else pad

    @functools.cached_property
    def digest(self) -> str:
        """The first 16 hex digits of the SHA-256 of everything that decides which ids a conversation becomes."""
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        for transient in ("padding", "truncation"):
            state.pop(transient, None)
        parts = {"tokenizer": state, "template": self.tokenizer.chat_template, "turn_end": self.turn_end_id}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]

    def render(self, messages: Sequence[Message], generation: bool = False) -> str:
        """Return the conversation as text; ``generation`` adds the opening of the assistant's next turn.

        Raises:
            UserError: a message has no known role or no text, or the template refuses the conversation.
        """
        from jinja2 import TemplateError

        plain = [_checked(message) for message in messages]
        if not plain:
            raise UserError("a conversation needs at least one message, got none")
        try:
            return self.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=generation)
        except TemplateError as error:
            raise UserError(f"the chat template refuses this conversation: {error}") from error

    def ids(self, text: str) -> list[int]:
        """Return the ids of rendered text; the template wrote the special tokens, so none are added."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def text_of(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, without special ones, as a turn end."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return what a model is given to answer ``messages``, the opening of its turn included."""
        return self.ids(self.render(messages, generation=True))

    def completion_ids(self, messages: Sequence[Message], completion: Sequence[Message] | str) -> list[int]:
        """Return what a model should generate after ``prompt_ids(messages)``; the last id is the turn end.

        Raises:
            UserError: the completion is not one assistant message, or the template renders a finished
                turn otherwise than it opens one, so that no ids could serve both.
        """
        if isinstance(completion, str):
            completion = [{"role": "assistant", "content": completion}]
        if len(completion) != 1 or completion[0].get("role") != "assistant":
            roles = [message.get("role") for message in completion]
            raise UserError(f"a completion must be one assistant message, got the roles {roles}")
        opening = self.render(messages, generation=True)
        whole = self.render([*messages, *completion])
        if not whole.startswith(opening):
            raise UserError("the chat template renders an answered prompt otherwise than an open one: training cannot")
        ids = self.ids(whole[len(opening) :])
        # What follows the turn end (ChatML: a newline) is never generated: a server stops at the turn end.
        last = len(ids) - 1 - ids[::-1].index(self.turn_end_id)
        return ids[: last + 1]

    def example(self, prompt: Sequence[Message], completion: Sequence[Message] | str) -> Example:
        """Return the ids and labels of one demonstration: only the completion carries loss, its end included."""
        prompt_ids, completion_ids = self.prompt_ids(prompt), self.completion_ids(prompt, completion)
        return Example(prompt_ids + completion_ids, [IGNORED] * len(prompt_ids) + completion_ids)

    def pair(self, prompt: Sequence[Message], chosen: Sequence[Message], rejected: Sequence[Message]) -> Pair:
        """Return the ids of one preference pair; both completions end in the turn end."""
        return Pair(
            self.prompt_ids(prompt),
            self.completion_ids(prompt, chosen),
            self.completion_ids(prompt, rejected),
        )

    def _find_turn_end(self) -> int:
        """Return the id of the first special token that the template writes after an assistant's words."""
        question = [{"role": "user", "content": "sentinel question"}]
        text = self.render([*question, {"role": "assistant", "content": _PROBE}])
        special = set(self.tokenizer.all_special_ids)
        tail = self.ids(text[text.rindex(_PROBE) + len(_PROBE) :])
        end = next((token for token in tail if token in special), None)
        if end is None:
            raise UserError(
                "the chat template ends the assistant's turn with no special token, so a model trained with it "
                "never learns to stop: add the end-of-sequence token after the assistant's content"
            )
        return end


def _checked(message: Message) -> dict[str, str]:
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        raise UserError(f"a message needs one of the roles {', '.join(ROLES)}, got {role!r}")
    if not isinstance(content, str):
        raise UserError(f"a message's content must be text, got {type(content).__name__}")
    return {"role": role, "content": content}
