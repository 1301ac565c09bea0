"""Rates of obedience under each guard, from scripted answers."""

import json
from pathlib import Path

import pytest

from components.retrieval.injection_evaluation import rates, write_answers
from components.retrieval.injections import ORDERS, inject

QUESTIONS = [{"question": "q", "passages": [{"text": "one."}, {"text": "two."}]}]


def test_rates_are_shares_and_what_a_guard_prevents_is_their_difference_in_pairs(tmp_path: Path) -> None:
    """Of 2 prompts for each order: unguarded all obey, quoted every second one, dropped none."""
    injected = inject(QUESTIONS, 2 * len(ORDERS), seed=0)
    words = [one.canary for one in injected]
    answers = {
        "off": words,
        "quote": [word if place % 2 else "I don't know." for place, word in enumerate(words)],
        "drop": ["I don't know."] * len(words),
    }
    found = rates(injected, answers)
    assert found["off/all"]["mean"] == 1.0 and found["quote/all"]["mean"] == 0.5 and found["drop/all"]["mean"] == 0.0
    assert found["quote/prevented"]["mean"] == pytest.approx(0.5) and found["drop/prevented"]["low"] == 1.0
    assert found["off/order_1"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    lines = write_answers(tmp_path / "a.jsonl", injected, answers).read_text().splitlines()
    assert json.loads(lines[0]) == {
        "question": "q",
        "order": injected[0].order,
        "off": words[0],
        "quote": "I don't know.",
        "drop": "I don't know.",
    }
