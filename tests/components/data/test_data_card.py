"""The data card's figures, by hand, and that they are plain values."""

import json

import pytest

from components.data.data_card import describe, figures
from tests.components.data.test_clean import pair, votes


def _card(rows, dropped=(), left_out=(), **found):
    card = describe(rows, dropped, left_out, "db#preferences@1", {"conflicts": 0, "common_answers": 0} | found)
    assert json.loads(json.dumps(card)) == card
    return card


def test_counts_lengths_and_length_bias_by_hand():
    """Chosen is longer in a, shorter in b, as long in c: (1 + 0 + 0.5) / 3 = 0.5.

    Deviations 0.5, -0.5, 0 of three prompts: the error is sqrt(0.5) / 3 = 0.2357, 1.96 of them are 0.462.
    """
    rows = [
        pair("aa", "xxxx", "x", source="s"),
        pair("bbbb", "x", "xxxx", source="t"),
        pair("cccccc", "xx", "yy", "test", source="t"),
    ]
    card = _card(rows)
    assert (card["pairs"], card["prompts"]) == (3, 3)
    assert card["counts"] == {"t": {"train": 1, "test": 1}, "s": {"train": 1, "test": 0}}
    assert list(card["counts"]) == ["t", "s"]
    prompt = card["lengths"]["prompt"]
    assert (prompt["mean"], prompt["median"], prompt["max"], prompt["p95"]) == (4, 4, 6, pytest.approx(5.8))
    assert sum(prompt["counts"]) == 3 and len(prompt["edges"]) == len(prompt["counts"]) + 1
    bias = card["length_bias"]
    assert bias["overall"] == pytest.approx(
        {"mean": 0.5, "low": 0.5 - 0.46197, "high": 0.5 + 0.46197, "n": 3}, abs=1e-4
    )
    assert {name: value["mean"] for name, value in bias["by_source"].items()} == {"s": 1.0, "t": 0.25}
    assert {name: value["mean"] for name, value in bias["by_split"].items()} == {"test": 0.5, "train": 0.5}
    assert sum(bias["log2_ratio"]["counts"]) == 3
    assert figures(card)["card/chosen_longer"] == 0.5 and "card/alpha" not in figures(card)


def test_pairs_with_one_prompt_are_not_taken_for_independent():
    """A prompt's pairs all say the same: 3 prompts of 4 pairs for longer, 3 for shorter.

    The sums of deviations are 4 * 0.5 = 2 each: the error is sqrt(6 * 2**2) / 24 = 0.2041, as if there were 6 pairs;
    24 independent ones would have sqrt(24 * 0.5**2) / 24 = 0.1021.
    """
    rows = [pair(prompt, "longer", f"{n}") for prompt in "abc" for n in range(4)]
    rows += [pair(prompt, f"{n}", "longer") for prompt in "def" for n in range(4)]
    overall = _card(rows)["length_bias"]["overall"]
    assert overall["mean"] == 0.5
    assert overall["high"] - 0.5 == pytest.approx(1.96 * 0.20412, abs=1e-4)


def test_agreement_is_of_the_kept_and_of_all_that_was_read():
    """Kept: cc and cr, in both orders: c 4, r 4 of 8 votes; observed 2 * 2, expected 32 / 7; alpha = 1 - 28 / 32."""
    kept = [
        pair("a", "x", "y", votes=votes("chosen", "chosen")),
        pair("b", "x", "y", votes=votes("chosen", "rejected")),
    ]
    gone = [{**pair("c", "x", "y", votes=votes("rejected", "rejected")), "reason": "conflict", "detail": "against z"}]
    agreement = _card([*kept, pair("d", "x", "y")], gone)["agreement"]
    assert agreement["kept"] == {
        "alpha": pytest.approx(1 - 28 / 32),
        "pairs": 2,
        "votes": 4,
        "annotators": 2,
        "even": 1,
        "against_the_label": 0,
    }
    assert (agreement["as read"]["pairs"], agreement["as read"]["against_the_label"]) == (3, 1)
    # All three: c 6, r 6 of 12 votes; observed 2 * 2, expected 2 * 36 / 11; alpha = 1 - 44 / 72.
    assert agreement["as read"]["alpha"] == pytest.approx(1 - 44 / 72)


def test_what_was_left_out_is_counted_with_examples():
    gone = [{**pair(f"{n}", "x", "y"), "reason": reason, "detail": "d"} for n, reason in enumerate("aabaab")]
    left_out = [{"where": f"f line {n}", "reason": "empty"} for n in range(30)]
    card = _card([pair("p" * 2000, "x", "y")], gone, left_out, conflicts=7)
    assert card["dropped"] == {"a": 4, "b": 2} and card["no_pair"] == {"empty": 30} and card["found"]["conflicts"] == 7
    assert len(card["no_pair_lines"]) == 20
    assert [row["reason"] for row in card["dropped_examples"]] == ["a", "a", "b", "b"]
    assert len(card["examples"][0]["prompt"]) == 603


def test_an_empty_table_has_a_card_too():
    card = _card([])
    assert card["lengths"]["chosen"]["n"] == 0 and card["length_bias"]["overall"]["mean"] is None
    assert figures(card) == {"card/voted": 0.0}
