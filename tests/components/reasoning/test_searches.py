"""Passages have one number over all searches, and no search takes longer than there is time."""

import asyncio
import time

import pytest

from components.reasoning.searches import Passages, numbered
from tests.components.reasoning.fakes import Script
from tests.components.reasoning.index import Index, searching


def test_a_passage_keeps_its_number_in_every_search():
    index = Index({"one": ["a", "b"], "two": ["c", "b"], "three": ["b"]})
    passages = Passages(searching(Script(""), index))
    numbers = [
        [(p["passage_id"], p["number"]) for p in asyncio.run(passages.retrieve(q))] for q in ("one", "two", "three")
    ]
    assert numbers == [[("a", 1), ("b", 2)], [("c", 3), ("b", 2)], [("b", 2)]]
    assert [p["passage_id"] for p in passages.found] == ["a", "b", "c"]
    assert (passages.changed(), passages.changed()) == (True, False)


def test_no_more_passages_are_taken_in_than_fit():
    passages = Passages(searching(Script(""), Index({"one": ["a", "b"], "two": ["c", "b", "d"]})), most=3)
    asyncio.run(passages.retrieve("one"))
    assert not passages.full()
    assert [p["passage_id"] for p in asyncio.run(passages.retrieve("two"))] == ["c", "b"]
    assert passages.full() and len(passages.found) == 3


def test_an_index_that_hangs_costs_the_time_that_is_left_and_no_more():
    given = searching(Script(""), Index({"slow": "hang"}), limits={"seconds": 0.05})
    began = time.monotonic()
    assert asyncio.run(Passages(given).retrieve("slow")) == []
    assert time.monotonic() - began < 5 and given.budget.stopped_by == "seconds"


@pytest.mark.parametrize("limits", [{}, {"seconds": 60}])
def test_what_the_index_raises_is_not_taken_for_the_end_of_the_time(limits):
    given = searching(Script(""), Index({"broken": TimeoutError("the index's own")}), limits=limits)
    with pytest.raises(TimeoutError, match="own"):
        asyncio.run(Passages(given).retrieve("broken"))
    assert given.budget.stopped_by is None


def test_passages_are_shown_as_the_name_shows_them():
    given = searching(Script(""), Index({"q": ["a"]}))
    found = asyncio.run(Passages(given).retrieve("q"))
    assert numbered(found, given) == "[1] title a: text of a"
