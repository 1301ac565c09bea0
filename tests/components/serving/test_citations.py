"""Citations: the quote is a slice of the passage, and says what the answer says."""

import pytest

from components.serving.citations import cite, claim_of, spans

PASSAGES = [
    {
        "passage_id": "a",
        "title": "shutil.copy",
        "source": "shutil",
        "score": 0.5,
        "text": "Copy data and mode bits. The destination may be a directory.\n"
        "If source and destination are the same file, an error is raised.",
    },
    {"passage_id": "b", "title": "os.remove", "source": "os", "score": 0.25, "text": "Remove a file."},
]


def test_the_quote_is_the_sentence_that_holds_the_claim():
    (found,), unknown = cite("An error is raised if both are the same file [1].", PASSAGES)
    assert found.quote == "If source and destination are the same file, an error is raised."
    assert PASSAGES[0]["text"][found.start : found.end] == found.quote
    assert found.verified and found.support >= 0.75
    assert (found.marker, found.passage_id, found.title, found.source, found.score) == (
        1,
        "a",
        "shutil.copy",
        "shutil",
        0.5,
    )
    assert unknown == []


def test_a_wrapped_sentence_is_quoted_whole_and_a_signature_is_not_part_of_it():
    text = "json.load(fp, *)\nDeserialize a file-like object containing\na JSON document to an object.\n\nOther things."
    (found,), _ = cite("It deserializes a file-like object to an object [1].", [{**PASSAGES[0], "text": text}])
    assert found.quote == "Deserialize a file-like object containing\na JSON document to an object."


def test_a_claim_that_the_passage_does_not_hold_is_not_verified():
    (found,), _ = cite("It launches orbital rockets [2].", PASSAGES)
    assert found.support == 0.0 and not found.verified
    assert PASSAGES[1]["text"][found.start : found.end] == found.quote


def test_marks_of_no_passage_are_reported_and_not_cited():
    found, unknown = cite("It removes a file [2][7][7].", PASSAGES)
    assert [each.marker for each in found] == [2]
    assert unknown == [7]


def test_a_passage_cited_twice_is_quoted_for_its_best_supported_claim():
    (found,), _ = cite("It flies [1]. It copies data and mode bits [1].", PASSAGES)
    assert found.quote == "Copy data and mode bits."


def test_naming_the_passages_subject_is_supported_by_its_title():
    (found,), _ = cite("It is `os.remove` [2].", PASSAGES)
    assert found.verified


def test_an_abstention_cites_nothing():
    assert cite("I don't know.", PASSAGES) == ([], [])


@pytest.mark.parametrize(
    ("answer", "claim"),
    [
        ("It sorts [1].", "It sorts"),
        ("It sorts. [1]", "It sorts."),
        ("One. It sorts version 3 [1].", "It sorts version 3"),
        ("It sorts [1][2].", "It sorts"),
        ("[1] It sorts.", "It sorts."),
        ("[1] It reads. [2] It sorts. It ends.", "It sorts."),
        ("[1][2] It sorts.", "It sorts."),
    ],
)
def test_a_claim_is_the_sentence_that_its_mark_is_for(answer, claim):
    start = answer.rindex("[")
    assert claim_of(answer, start, start + 3) == claim


@pytest.mark.parametrize("text", ["", "One.", "One. Two!\n\nThree (e.g. four)?  Five", "  padded.  \n"])
def test_spans_are_slices_without_surrounding_space_in_order_and_cover_all_words(text):
    pieces = [text[start:end] for start, end in spans(text)]
    assert all(piece == piece.strip() and piece for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(text.split())
