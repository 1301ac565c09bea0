"""What a group of passages is about, in a few sentences: taken from them, or written by a language model."""

import re
from collections.abc import Sequence
from typing import Literal

from pydantic import model_validator

from components.config import Config, Field, UserError
from components.data.sentences import clip, sentences
from components.retrieval.generator import Generate, LanguageModel
from components.retrieval.guard import guarded

_END = re.compile(r"(?<=[.!?])\s+")
_REQUEST = (
    "Summarize in at most {words} words what these passages have in common and what they cover. "
    "Say nothing that they do not say. Write plain sentences, no list and no heading.\n\nThey are about: {names}\n\n"
    "{texts}"
)


class Summaries(Config):
    """Who writes the summaries of groups, and how long they are."""

    by: Literal["sentences", "model"] = Field(
        "sentences", description="the groups' most central sentences as they are, or what language_model writes"
    )
    language_model: LanguageModel | None = Field(None, description="what writes them; only with by=model")
    words: int = Field(
        45, ge=10, description="longest summary; a served name shows as much of it as its search.passage_words"
    )
    read_words: int = Field(
        600, ge=50, description="words of a group that a language model reads, the most central first"
    )

    @model_validator(mode="after")
    def _who_writes_is_said(self) -> "Summaries":
        if self.by == "model" and self.language_model is None:
            raise UserError("by=model needs a language_model that writes the summaries: give its url and model")
        if self.by == "sentences" and self.language_model is not None:
            raise UserError("a language_model is given, and by=sentences asks none: set by=model, or leave it out")
        return self


def summary(texts: Sequence[str], names: Sequence[str], config: Summaries, generate: Generate | None) -> str:
    """Return a summary of texts, the most central first, of at most ``config.words`` words; empty if there is none.

    Args:
        names: what they have in common, for the model.
        generate: the language model; only where one is to write.

    Raises:
        UserError: a model is to write, and it does not answer.
    """
    if config.by == "sentences":
        return _taken(texts, config.words)
    assert generate is not None, "whoever says that a model writes hands one in"
    request = _REQUEST.format(words=config.words, names=", ".join(names), texts=_read(texts, config.read_words))
    return _short(" ".join(generate(request).split()), config.words)


def _taken(texts: Sequence[str], words: int) -> str:
    """Return the first sentence of each text in turn, as many as there is room for, at least one.

    Of texts without prose (code, tables) it is the first words of the first one.
    """
    openings = dict.fromkeys(found[0] for text in texts if (found := sentences(text, opening=False)))
    if openings:
        return _short(" ".join(one if one[-1] in ".!?" else f"{one}." for one in openings), words)
    return " ".join(texts[0].split()[:words]) if texts else ""


def _short(text: str, words: int) -> str:
    """Return the first whole sentences that have at most so many words; of one that is longer, its first words."""
    return " ".join(" ".join(clip(_END.split(text), words)).split()[:words])


def _read(texts: Sequence[str], words: int) -> str:
    """Return the texts as a model may read them, up to so many words; what gives it orders is quoted."""
    shown, left = [], words
    for text in texts:
        part = guarded(text, "quote").split()[:left]
        if not part:
            break
        shown.append("- " + " ".join(part))
        left -= len(part)
    return "\n".join(shown)
