"""The data card of a preference table: one self-contained HTML page, and the same figures as JSON beside it."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from components.orchestration.data_card_figures import dropped_bars, length_histogram, ratio_histogram, source_bars
from components.orchestration.page import render
from components.tracking.run import Run

# Reason → what a reader calls it.
_WORDS = {
    "ties": "chosen and rejected are the same text",
    "empty": "an answer is empty",
    "diverging": "the dialogues go apart before the last message",
    "repeated": "the same pair again",
    "long_prompt": "prompt too long",
    "long_answer": "answer too long",
    "short_answer": "answer too short",
    "length_ratio": "answers of too different lengths",
    "same_answers": "answers differ in case and white space only",
    "scores_contradict": "the rejected answer has the higher score",
    "small_margin": "scores equal or too close",
    "even_votes": "as many votes for one answer as for the other",
    "conflict": "another pair says the opposite",
    "conflict_even": "another pair says the opposite, with as many votes",
    "duplicate": "duplicate but for case and white space",
    "near_duplicate": "near-duplicate",
    "contaminated_prompt": "prompt of the evaluation",
    "contaminated_words": "holds a text of the evaluation",
    "contaminated_vectors": "nearly a text of the evaluation",
    "mix": "above its source's share",
}


def log_data_card(run: Run, card: Mapping[str, Any], left_out: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Write ``data_card.html`` and ``data_card.json`` and log them; lines that made no pair go to ``left_out.jsonl``.

    Returns the page's path as the output ``card``.
    """
    logged = log_card(run, "Preference data", card, write_data_card)
    if left_out:
        run.log_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in left_out), "left_out.jsonl")
    return logged


def log_card(
    run: Run, title: str, card: Mapping[str, Any], write: Callable[[Path, str, Mapping[str, Any]], None]
) -> dict[str, str]:
    """Have a table's page written, and its figures as JSON beside it, and log both; return the output ``card``."""
    page, figures = run.dir / "data_card.html", run.dir / "data_card.json"
    write(page, title, card)
    figures.write_text(json.dumps(card, indent=2, ensure_ascii=False))
    for path in (page, figures):
        run.log_artifact(path)
    return {"card": str(page)}


def write_data_card(path: Path, title: str, card: Mapping[str, Any]) -> None:
    """Write the page.

    Args:
        card: what ``data_card.describe`` returns.
    """
    figures = {}
    if card["pairs"]:
        figures = {
            "Pairs by source": source_bars(card["counts"]),
            f"Lengths in {card['length_unit']}": length_histogram(card["lengths"]),
            "How much longer the chosen answer is": ratio_histogram(card["length_bias"]["log2_ratio"]),
        }
    if card["dropped"] or card["no_pair"]:
        gone = {_WORDS.get(name, name): count for name, count in {**card["no_pair"], **card["dropped"]}.items()}
        figures["Left out"] = dropped_bars(gone)
    path.write_text(render("data_card.html.jinja", title=title, card=card, figures=figures, words=_WORDS))
