"""What MLflow's SQL store takes: names of some characters only, and tags of a limited length."""

import re
from collections.abc import Mapping
from typing import Any

TAG = 8_000  # characters in one tag
_NAME = 240  # and, nearly, in the name of a parameter or a metric


def taken(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures or parameters under names that MLflow takes: what a person called something is in them, too."""
    named: dict[str, Any] = {}
    for name, value in figures.items():
        parts = re.sub(r"[^/\w.\- :]", "_", name)[:_NAME].split("/")
        # It reads them as paths: nothing in it may be empty, "." or "..".
        plain = "/".join(part if part.strip(".") else "_" * len(part) for part in parts if part) or "_"
        while plain in named:
            plain += "_"
        named[plain] = value
    return named


def as_tags(tag: str, text: str, known: Mapping[str, str]) -> dict[str, str]:
    """Return the tags that hold a text of any length; those of an earlier, longer one, in ``known``, are emptied."""
    parts = [text[start : start + TAG] for start in range(0, len(text), TAG)]
    emptied = dict.fromkeys(_names(tag, known), "")
    return emptied | {_name(tag, number): part for number, part in enumerate(parts)}


def text_of(tag: str, tags: Mapping[str, str]) -> str:
    """Return the text that ``as_tags`` has spread over tags."""
    return "".join(tags[name] for name in _names(tag, tags))


def _name(tag: str, number: int) -> str:
    return f"{tag}.{number}" if number else tag


def _names(tag: str, tags: Mapping[str, str]) -> list[str]:
    found: list[str] = []
    while _name(tag, len(found)) in tags:
        found.append(_name(tag, len(found)))
    return found
