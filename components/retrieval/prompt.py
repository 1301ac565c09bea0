"""The grounded prompt over passages as an index returns them, shown the way training showed them."""

from collections.abc import Mapping, Sequence
from typing import Any

from components.data.grounding import grounded_messages, shown
from components.data.sentences import clip, sentences
from components.retrieval.guard import Guard, guarded

Message = dict[str, Any]


def as_prompted(passage: Mapping[str, Any], max_words: int, guard: Guard = "quote") -> str:
    """Return a retrieved passage as prompts show it: its name, then its first sentences up to ``max_words``.

    Of a passage without prose (a table, code) its first words are shown instead. What speaks to the model in it is
    guarded against first.
    """
    name = guarded(passage.get("symbol") or passage.get("title") or "", guard)
    body = _without_name(guarded(passage["text"], guard).strip(), name)
    parts = clip(sentences(body), max_words)
    return shown(" ".join(parts) if parts else " ".join(body.split()[:max_words]), name)


def grounded_conversation(
    messages: Sequence[Message], passages: Sequence[Mapping[str, Any]], max_words: int, guard: Guard = "quote"
) -> list[Message]:
    """Return the conversation with its last user turn as the trained prompt over ``passages``.

    Earlier turns stay between the system message and it; a client's own system messages are added to ours.
    ``messages`` must hold a user turn, and contents are plain strings.
    """
    last = max(index for index, message in enumerate(messages) if message["role"] == "user")
    texts = [as_prompted(passage, max_words, guard) for passage in passages]
    system, user = grounded_messages(messages[last]["content"], texts)
    theirs = [message["content"] for message in messages if _is_system(message)]
    system = {**system, "content": "\n\n".join([system["content"], *theirs])}
    before = [message for message in messages[:last] if not _is_system(message)]
    after = [message for message in messages[last + 1 :] if not _is_system(message)]
    return [system, *before, user, *after]


def _is_system(message: Message) -> bool:
    return message["role"] in ("system", "developer")


def _without_name(text: str, name: str) -> str:
    """Return a passage's text without the name that it may repeat at its head, as a heading of its own."""
    if name and text.startswith(name):
        rest = text[len(name) :].lstrip()
        if rest[:1] in (":", "—", "-") or text[len(name) :][:1] == "\n":
            return rest.lstrip(":—- \n")
    return text
