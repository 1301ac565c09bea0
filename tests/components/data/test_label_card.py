"""The figures of labelled answers, by hand."""

import pytest

from components.data import label_card


def answer(prompt: str, text: str, label: bool, split: str = "train", source: str = "forum") -> dict:
    return {
        "answer_id": f"{prompt}/{text}",
        "prompt_id": prompt,
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": text}],
        "label": label,
        "split": split,
        "source": source,
    }


def test_counts_balance_and_lengths_by_hand() -> None:
    rows = [
        answer("One?", "a" * 10, True),
        answer("One?", "b" * 4, False),
        answer("Two?", "c" * 4, True),
        answer("Three?", "d" * 2, True),
        answer("Four?", "e" * 6, True, "test", "staff"),
    ]
    card = label_card.describe(rows, {"repeated": 2, "empty": 0}, "db#answers@1")
    assert (card["answers"], card["prompts"], card["prompts_with_both"]) == (5, 4, 1)
    assert card["counts"] == {
        "forum": {"train": {"good": 3, "bad": 1}, "test": {"good": 0, "bad": 0}},
        "staff": {"train": {"good": 0, "bad": 0}, "test": {"good": 1, "bad": 0}},
    }
    assert card["good_share"]["train"]["mean"] == 0.75 and card["good_share"]["test"]["mean"] == 1.0
    assert card["good_share"]["train"]["n"] == 4
    assert card["weights"] == {"desirable": 1.0, "undesirable": 3.0}  # 3 good x 1 = 1 bad x 3
    assert card["good_longer"] == (1 + 0.5 + 0 + 1) / 4  # 10, 4, 2 and 6 characters against 4
    assert card["lengths"]["good"]["mean"] == 5.5 and card["lengths"]["bad"]["max"] == 4
    figures = label_card.figures(card)
    assert figures["dropped/repeated"] == 2 and figures["answers/train"] == 4 and figures["answers/train_good"] == 3
    assert figures["answers/test"] == figures["answers/test_good"] == 1 and figures["card/good_share"] == 0.75


def test_the_chance_of_being_longer_agrees_with_counting_all_pairs() -> None:
    good, bad = [3, 9, 4, 4, 12, 7], [4, 8, 2, 4, 30]
    rows = [answer(f"{n}?", "x" * length, True) for n, length in enumerate(good)]
    rows += [answer(f"{n}?", "y" * length, False) for n, length in enumerate(bad)]
    counted = sum((g > b) + (g == b) / 2 for g in good for b in bad) / (len(good) * len(bad))
    assert label_card.describe(rows, {}, "db#answers@1")["good_longer"] == pytest.approx(counted)


def test_answers_of_one_kind_have_no_weights_and_nothing_to_be_longer_than() -> None:
    card = label_card.describe([answer("One?", "yes", True)], {}, "db#answers@1")
    assert card["weights"] is None and card["good_longer"] is None
    assert card["lengths"]["bad"]["median"] is None and card["good_share"]["test"]["mean"] is None
    assert "card/bad_median_characters" not in label_card.figures(card)
