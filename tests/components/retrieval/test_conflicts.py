"""Passages that say otherwise: the same words with another number or a "not", about the same thing."""

import pytest

from components.retrieval.citations import cite
from components.retrieval.conflicts import conflicts, contradicts

FIRST = "Requests. The default timeout of a request is 30 seconds. It can be changed."
SECOND = "Notes of 2024. By default the timeout of a request is 60 seconds."


def _passage(name, text, symbol=None):
    return {"passage_id": name, "title": "", "source": f"{name}.md", "score": 1.0, "text": text, "symbol": symbol}


def _found(answer, *passages):
    return conflicts(cite(answer, passages)[0], passages)


def test_another_number_in_another_passage_is_shown_with_its_place() -> None:
    passages = [_passage("a", FIRST), _passage("b", SECOND), _passage("c", "The default timeout of a job is a secret.")]
    (one,) = _found("The default timeout of a request is 30 seconds [1].", *passages)
    assert (one.marker, one.other, one.passage_id, one.source) == (1, 2, "b", "b.md")
    assert SECOND[one.start : one.end] == one.quote == "By default the timeout of a request is 60 seconds."


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("The cache holds 30 entries of a table.", "The cache holds 40 entries of a table.", True),
        ("The cache holds 30 entries of a table.", "The cache holds 30 entries of a table.", False),
        ("The cache holds entries of a table.", "The cache does not hold entries of a table.", True),
        ("The flag is True for open files.", "The flag is False for open files.", True),
        ("The cache holds 30 entries of a table.", "The cache holds entries of a table.", False),  # one says less
        ("The cache holds 30 entries of a table.", "Rain fell for 40 days over the valley.", False),
        ("It takes 30 seconds.", "It takes 40 seconds.", False),  # too few words to know that it is one thing
    ],
)
def test_what_contradicts(left: str, right: str, expected: bool) -> None:
    assert contradicts(left, right) is expected is contradicts(right, left)


def test_two_named_things_may_differ() -> None:
    passages = [_passage("a", FIRST, "http.get"), _passage("b", SECOND, "ftp.get")]
    answer = "The default timeout of a request is 30 seconds [1]."
    assert not _found(answer, *passages)
    same = [{**passage, "symbol": "http.get"} for passage in passages]
    assert len(_found(answer, *same)) == 1


def test_a_citation_that_does_not_hold_has_no_conflicts() -> None:
    assert not _found("Bananas are yellow fruit [1].", _passage("a", FIRST), _passage("b", SECOND))
