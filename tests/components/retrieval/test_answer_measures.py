"""Each measure by hand, on answers that are right, wrong, uncited, half supported, or none."""

import math

import pytest

from components.retrieval import answer_measures as measures

PASSAGES = [
    {"passage_id": "a", "title": "", "source": "a.md", "text": "The queue keeps entries in order. It may be empty."},
    {"passage_id": "b", "title": "", "source": "b.md", "text": "The lock is released by its owner only."},
]


def _one(answer, passage_id="a", answerable=True):
    expected = {"passage_ids": [passage_id, "a copy"], "answerable": answerable}
    return {"question": "What does the queue do?", "answer": answer, "passages": PASSAGES, "expected": expected}


@pytest.mark.parametrize(("wanted", "precision", "recall"), [("a", 1.0, 1.0), ("b", 0.5, 1.0), ("c", 0.0, 0.0)])
def test_context_is_measured_where_there_was_something_to_find(wanted, precision, recall) -> None:
    assert measures.context_precision(_one("", wanted)) == precision
    assert measures.context_recall(_one("", wanted)) == recall
    for measure in (measures.context_precision, measures.context_recall):
        assert measure(_one("", wanted, answerable=False)) is None


@pytest.mark.parametrize(
    ("answer", "faithfulness", "precision", "recall"),
    [
        ("[1] The queue keeps entries in order.", 1.0, 1.0, 1.0),
        ("The queue keeps entries in order [1].", 1.0, 1.0, 1.0),
        ("The queue keeps entries in order [2].", 1.0, 0.0, 0.0),  # said by a passage, but not by the one it cites
        ("The queue keeps entries in order [9].", 1.0, 0.0, 0.0),  # a mark of no passage
        ("The queue keeps entries in order.", 1.0, None, 0.0),
        ("[1] The queue keeps entries in order. [2] Bananas are yellow fruit.", 0.5, 0.5, 0.5),
        ("Bananas are yellow fruit.", 0.0, None, 0.0),
        ("I don't know.", None, None, None),
    ],
)
def test_claims_are_held_to_the_passages(answer, faithfulness, precision, recall) -> None:
    one = _one(answer)
    found = (measures.faithfulness(one), measures.citation_precision(one), measures.citation_recall(one))
    assert found == (faithfulness, precision, recall)


def test_abstentions_are_right_where_nothing_could_be_found() -> None:
    """By hand: two abstain, one of them rightly; of two unanswerable ones one abstains."""
    four = [
        _one("I don't know."),
        _one("I don't know.", answerable=False),
        _one("[1] It is."),
        _one("It is.", "a", False),
    ]
    assert [measures.abstention_precision(one) for one in four] == [0.0, 1.0, None, None]
    assert [measures.abstention_recall(one) for one in four] == [None, 1.0, None, 0.0]


def test_relevance_is_the_cosine_of_question_and_answer() -> None:
    asked = []

    def embed(texts):
        asked.append(texts)
        return [[1.0, 0.0], [0.6, 0.8]]

    measure = measures.answer_relevance(embed)
    assert math.isclose(measure(_one("[1] It keeps entries.")), 0.6)
    assert asked == [["What does the queue do?", "It keeps entries."]]
    assert measure(_one("I don't know.")) is None and measure(_one(" ")) is None and len(asked) == 1
