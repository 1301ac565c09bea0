import pytest

from components.data.grounding import (
    ABSTENTION,
    SYSTEM,
    abstains,
    cited,
    grounded_messages,
    passages_block,
    shown,
    without_citations,
)


def test_questions_over_the_same_passages_differ_only_at_the_end():
    first, second = (grounded_messages(q, ["One.", "Two."]) for q in ("What is one?", "What is two?"))
    assert first[0] == second[0] == {"role": "system", "content": SYSTEM}
    shared = first[1]["content"].removesuffix("What is one?")
    assert second[1]["content"] == shared + "What is two?"
    assert passages_block(["One.", "Two."]) in shared


def test_passages_are_numbered_from_one_and_each_is_one_line():
    assert passages_block(["a\n  b", "c"]) == "[1] a b\n[2] c"


def test_a_passage_is_shown_after_its_title_unless_it_opens_with_it():
    assert shown("Return the path.", "os.getcwd") == "os.getcwd: Return the path."
    assert shown("os.getcwd() returns it.", "os.getcwd") == "os.getcwd() returns it."
    assert shown("Text.", "A study .") == "A study: Text."
    assert shown("Text.", None) == "Text."


def test_citations_are_read_in_order_and_once_each():
    assert cited("It is so [2], see [1] and [2].") == [2, 1]
    assert cited("x[i] and [a] are no citations") == []
    assert without_citations("It is so. [2]") == "It is so."


@pytest.mark.parametrize(
    "answer", [ABSTENTION, "I don\u2019t know", "i do not know.", "I'm sorry, but I don't know.", " I don't know! "]
)
def test_saying_that_one_does_not_know_is_an_abstention(answer):
    assert abstains(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "I don't know. [2]",  # cites
        "It returns I don't know.",
        "I don't know much, but the function takes a path and gives back its absolute form, which is then used by all.",
        "I know.",
        "",
    ],
)
def test_a_claim_is_no_abstention(answer):
    assert not abstains(answer)
