"""Widened passages slice back to their document, keep to their room and do not overlap."""

from components.retrieval.expand import Stretch, joined, widen

TEXT = "one two three four five six seven eight"


def _passage(start: int, end: int, n_tokens: int) -> dict:
    return {"start": start, "end": end, "text": TEXT[start:end], "n_tokens": n_tokens}


def test_overlapping_passages_join_to_a_slice_of_the_text() -> None:
    passages = [_passage(0, 13, 3), _passage(8, 18, 2), _passage(8, 13, 1), _passage(14, 27, 3)]
    assert joined(passages) == TEXT[0:27]
    assert joined([_passage(0, 3, 1), _passage(4, 7, 1)]) == "one\ntwo"


def test_a_stretch_grows_on_both_sides_within_its_room() -> None:
    """Of five passages of 2 tokens: one step takes both neighbours (6 tokens); 8 tokens end after the next."""
    passages = [_passage(0, 1, 2)] * 5
    assert widen(passages, 2, 1, 100) == Stretch(1, 3)
    assert widen(passages, 2, 5, 8) == Stretch(1, 4)
    assert widen(passages, 0, 1, 100) == Stretch(0, 1)
    assert widen(passages, 2, 5, 100) == Stretch(0, 4)
    assert widen(passages, 2, 5, 3) == Stretch(2, 2)  # no room: the passage itself stays


def test_a_side_ends_at_what_does_not_fit() -> None:
    passages = [_passage(0, 1, 1), _passage(0, 1, 9), _passage(0, 1, 1), _passage(0, 1, 1)]
    assert widen(passages, 2, 5, 4) == Stretch(2, 3)
