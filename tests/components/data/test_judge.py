from dataclasses import replace

import pytest

from components.data.grounding import ABSTENTION
from components.data.judge import content_words, judge
from components.data.records import Question

PASSAGES = [
    {
        "passage_id": "a",
        "title": "os.getcwd",
        "text": "os.getcwd: Return the working folder as text.",
        "source": "s",
    },
    {
        "passage_id": "b",
        "title": "os.chdir",
        "text": "os.chdir: Change the current working directory to path. It does not follow symbolic links.",
        "source": "s",
    },
    {"passage_id": "c", "title": "os.fsync", "text": "os.fsync: Force write of the file to disk.", "source": "s"},
]
WHAT = Question(
    "p", [], "What does `os.fsync` do?", "what", True, PASSAGES, 3, "Force write of the file to disk. [3]", "test"
)
WHICH = replace(
    WHAT, question="Which function changes the directory?", kind="which", target=2, reference="It is `os.chdir`. [2]"
)
DETAIL = replace(
    WHAT,
    question="What else is said about `os.chdir`?",
    kind="detail",
    target=2,
    reference="It does not follow symbolic links. [2]",
)
MISSING = replace(
    WHAT, question="What does `os.kill` do?", kind="missing_what", answerable=False, target=0, reference=ABSTENTION
)


@pytest.mark.parametrize("question", [WHAT, WHICH, DETAIL, MISSING])
def test_every_reference_is_perfect(question):
    judged = judge(question.reference, question)
    assert judged.score == 1.0 and judged.correct and not judged.rambles
    assert judged.grounded == question.answerable


@pytest.mark.parametrize(
    "answer", ["It forces the write of a file to disk [3].", "os.fsync forces writes of the file to disk. [3]"]
)
def test_another_wording_of_the_same_is_right(answer):
    assert judge(answer, WHAT).grounded


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (WHAT, "Force write of the file to disk."),  # no citation
        (WHAT, "Force write of the file to disk. [1]"),  # the wrong one
        (WHAT, "Force write of the file to disk. [1][2][3]"),  # all of them
        (WHAT, "It does not force write of the file to disk. [3]"),  # turned round
        (WHAT, "Change the current working directory to path. [3]"),  # another passage's text
        (WHAT, "`os.fsync` does what `os.fsync` does. [3]"),  # the question again
        (WHAT, "[3]"),
        (WHAT, ""),
        (WHAT, ABSTENTION),
        (WHICH, "It is `os.chdir` or `os.getcwd`. [2]"),  # names two
        (WHICH, "The directory is changed. [2]"),  # names none
        (WHICH, "It is `os.fsync`. [2]"),
        (DETAIL, "It does follow symbolic links. [2]"),
        (DETAIL, "Change the current working directory to path. [2]"),  # the first sentence, not the detail
        (MISSING, "Force write of the file to disk. [3]"),
        (MISSING, "I don't know. [3]"),
    ],
)
def test_the_judge_is_not_fooled(question, answer):
    judged = judge(answer, question)
    assert not judged.grounded
    assert judged.score < 0.9


def test_reciting_everything_is_rambling():
    everything = " ".join(p["text"] for p in PASSAGES)
    judged = judge(f"{WHAT.reference} {everything} {everything}", WHAT)
    assert judged.rambles and not judged.grounded


def test_scores_rank_answers_as_a_person_would():
    answers = [
        "Force write of the file to disk. [3]",  # right
        "Force write of the file to disk. [1]",  # right, wrong proof
        ABSTENTION,  # could have answered
        "Return the working folder as text. [1]",  # wrong
    ]
    scores = [judge(answer, WHAT).score for answer in answers]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4


def test_names_that_end_alike_are_told_apart_by_their_whole_name():
    passages = [
        {"passage_id": "a", "title": "io.BytesIO.read", "text": "io.BytesIO.read: Read bytes.", "source": "s"},
        {"passage_id": "b", "title": "io.StringIO.read", "text": "io.StringIO.read: Read text.", "source": "s"},
    ]
    question = replace(WHICH, passages=passages, target=1, reference="It is `io.BytesIO.read`. [1]")
    assert judge("It is `io.BytesIO.read`. [1]", question).grounded
    assert not judge("It is `io.StringIO.read`. [1]", question).grounded
    assert not judge("It is `read`. [1]", question).grounded


def test_inflections_are_one_word_and_function_words_are_none():
    assert content_words("returns returned return") == {"return"}
    assert content_words("of the a is") == set()
