"""Keeps what a document says from being taken for what the user or the operator says.

A passage is data. Where its text speaks to a model ("ignore all previous instructions and …"), forges the marks of a
conversation or of citations, or hides characters, that is shown as the quotation that it is, or left out. Detection by
patterns stops what is written in these forms and no other; how much that is for a given model is measured with
``components.retrieval.injections``.
"""

import re
import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

Guard = Literal["off", "quote", "drop"]

# Marks with which chat templates set roles apart.
_TEMPLATE_MARK = re.compile(
    r"<\|[^|<>\n]{1,40}\|>(?:\s*(?:system|assistant|user|developer)\n)?|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>",
    re.IGNORECASE,
)
_ROLE_LINE = re.compile(
    r"^[\s>#*-]*(?:system|assistant|developer)(?: (?:message|prompt|note))?\s*\**:", re.IGNORECASE | re.MULTILINE
)
_CITATION = re.compile(r"(?<![\w\])])\[(\d{1,2})\]")
_MOST_LINES = 4  # over which a sentence is wrapped
_ALIKE = str.maketrans("аеорсухіјѕһԁԛԝΑΒΕΖΗΙΚΜΝΟΡΤΥΧАВЕКМНОРСТУХІЈЅ", "aeopcyxijshdqwABEZHIKMNOPTYXABEKMHOPCTYXIJS")
_SENTENCE = re.compile(r"[^.!?\n]+(?:[.!?]+[\"')\]]*|\n|$)")
_EARLIER = r"(?:previous|prior|preceding|above|earlier|foregoing|other|existing|these|those|your|the|all|any)"
_ORDERS = re.compile(
    "|".join(
        (
            rf"\b(?:ignore|disregard|forget|override|bypass|discard)\b(?: {_EARLIER}| of| and| everything){{1,4}}"
            r"(?: \w+)? ?(?:instruction|direction|prompt|rule|guideline|command|message|passage|context|question)s?",
            r"\b(?:ignore|disregard|forget) (?:everything|all|anything) (?:above|before|else|you)",
            r"\bfrom now on,? (?:you|answer|reply|respond|act|always)",
            r"\b(?:ignore|disregard|forget) the above\b",
            r"\byou (?:are|will be) now\b",
            r"\b(?:asked|told|ordered|instructed) you to (?:answer|reply|respond|say|output|print|write)\b",
            r"\b(?:answer|reply|respond)\b[^.!?\n]{0,40}\bto (?:everything|anything|every question|all questions)\b",
            r"\bis the (?:only )?(?:right|correct|true) answer\b",
            r"\byou (?:must|should|have to|will|are to|shall)(?: now| only| always| instead)? "
            r"(?:answer|reply|respond|say|output|print|write|repeat|state|claim|tell the user)\b",
            r"\b(?:answer|reply|respond|output|print|write|say|finish|end|begin|start)\b[^.!?\n]{0,40}?"
            r"\b(?:only|exactly|precisely|verbatim|with|by saying|the (?:word|words|phrase|text|string|code))\b"
            r"[^.!?\n]{0,12}[\"'“‘`:][^.!?\n]*",
            r"\byour (?:new |real |actual |hidden |only )?(?:instructions? (?:is|are)|task is|orders?)\b",
            r"\b(?:reveal|repeat|print|show|leak)\b[^.!?\n]{0,20}\b(?:system|your) prompt\b",
            r"\b(?:attention|note to|important for|instructions? (?:to|for)|message (?:to|for))(?: the| all| any)? "
            r"(?:ai|llm|assistant|model|language model|chatbot|agent)s?\b",
            r"\bas an? (?:ai|language model|assistant)\b",
            r"\bdo not (?:cite|mention|reveal|disclose|tell)\b[^.!?\n]{0,40}\b(?:user|source|instruction|this)\b",
        )
    ),
    re.IGNORECASE,
)


def guarded(text: str, how: Guard) -> str:
    """Return a passage's text as a prompt may show it: what speaks to a model is quoted, or dropped.

    Marks of chat templates and invisible characters go in both cases. In a text with orders or such marks, roles at
    the head of a line go, too, and ``[3]`` becomes ``(3)``, as a mark there may be forged; any other text stays as it
    is.
    """
    if how == "off":
        return text
    bare = _TEMPLATE_MARK.sub(" ", seen := visible(text))
    if bare == seen and not orders(bare):
        return bare
    text = _CITATION.sub(r"(\1)", _ROLE_LINE.sub("", bare))
    for start, end in reversed(orders(text)):
        quoted = " ".join(text[start:end].split()).replace('"', "'")
        shown = f'(the document contains the words: "{quoted}")' if how == "quote" else ""
        text = f"{text[:start]}{shown}{text[end:]}"
    return text


def orders(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of each sentence that speaks to a model; neighbours are one stretch.

    Words are compared in their plain form: full-width letters, letters with accents, and those of other alphabets that
    look the same count as the letters. A sentence may be wrapped over several lines.
    """
    found: list[tuple[int, int]] = []
    sentences, place = list(_SENTENCE.finditer(text)), 0
    while place < len(sentences):
        size = _order_at(sentences, place, text)
        if not size:
            place += 1
            continue
        first, end = sentences[place], sentences[place + size - 1].end()
        start = first.start() + len(first[0]) - len(first[0].lstrip())
        if found and not text[found[-1][1] : start].strip():
            found[-1] = (found[-1][0], end)
        else:
            found.append((start, end))
        place += size
    return found


def _order_at(sentences: Sequence[re.Match[str]], place: int, text: str) -> int:
    """How many lines from this one on hold an order: one, or as many as it is wrapped over; 0 where there is none."""
    for size in range(1, _MOST_LINES + 1):
        lines = sentences[place : place + size]
        wraps = all(one[0].endswith("\n") and one.end() == next_.start() for one, next_ in pairwise(lines))
        if len(lines) < size or not wraps:
            return 0
        if _ORDERS.search(_plain(text[lines[0].start() : lines[-1].end()])):
            return size if size == 1 or not _ORDERS.search(_plain(text[lines[1].start() : lines[-1].end()])) else 0
    return 0


def visible(text: str) -> str:
    """Return the text without characters that nobody sees: zero-width ones, tags, changes of direction."""
    return "".join(char for char in text if unicodedata.category(char) != "Cf" or char == "\u00ad")


def _plain(text: str) -> str:
    letters = unicodedata.normalize("NFKD", text).translate(_ALIKE)
    return " ".join("".join(char for char in letters if not unicodedata.combining(char)).split())
