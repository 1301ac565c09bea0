"""Where the sentences of a text are."""

import functools
import re
from typing import Any

from components.retrieval.chunkers import Place

_PARAGRAPH = re.compile(r"\n\s*\n")
_ABBREVIATIONS = (
    "al approx cf ch dept dr e.g ed eq est etc fig figs i.e inc jr ltd mr mrs ms no nos p pp prof ref resp sec sr st "
    "u.k u.s vol vs"
)


def sentence_places(text: str) -> list[Place]:
    """Return the sentences of a text in order, all of it but white space; a paragraph's end is a sentence's, too.

    Source: Kiss and Strunk 2006, "Unsupervised multilingual sentence boundary detection", with given abbreviations.
    """
    splitter = _splitter()
    found: list[Place] = []
    start = 0
    for end in [*(gap.end() for gap in _PARAGRAPH.finditer(text)), len(text)]:
        if text[start:end].strip():
            found += [(start + a, start + b) for a, b in splitter.span_tokenize(text[start:end])]
        start = end
    return found


@functools.cache
def _splitter() -> Any:
    from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

    known = PunktParameters()
    known.abbrev_types = set(_ABBREVIATIONS.split())
    return PunktSentenceTokenizer(known)
