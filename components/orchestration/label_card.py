"""The data card of an `answers` table: one self-contained HTML page, and the same figures as JSON beside it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.orchestration.data_card import log_card
from components.orchestration.data_card_figures import length_histogram, source_bars
from components.orchestration.page import render
from components.tracking.run import Run

# Reason → what a reader calls it.
_WORDS = {
    "repeated": "the same answer to the same prompt again",
    "empty": "the answer is empty",
    "conflicting": "an answer called both good and bad",
    "contaminated_prompt": "prompt of the evaluation",
}


def log_label_card(run: Run, card: Mapping[str, Any]) -> dict[str, str]:
    """Write ``data_card.html`` and ``data_card.json`` and log them; return the page's path as the output ``card``."""
    return log_card(run, "Answers with labels", card, write_label_card)


def write_label_card(path: Path, title: str, card: Mapping[str, Any]) -> None:
    """Write the page.

    Args:
        card: what ``label_card.describe`` of the data room returns.
    """
    labels = {
        source: {name: sum(counts[name] for counts in own.values()) for name in ("good", "bad")}
        for source, own in card["counts"].items()
    }
    figures = {
        "Answers by source": source_bars(labels, ("good", "bad"), "answers"),
        f"Lengths in {card['length_unit']}": length_histogram(card["lengths"]),
    }
    path.write_text(render("label_card.html.jinja", title=title, card=card, figures=figures, words=_WORDS))
