"""Citations: the quote is a slice of the passage, and says what the answer says."""

import pytest

from components.retrieval.citations import Repair, cite, claim_of, repaired, spans

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


def _passages(*texts: str) -> list[dict]:
    return [{"passage_id": str(n), "text": text, "title": "", "source": ""} for n, text in enumerate(texts, 1)]


SORT, READ = "The list is sorted in place.", "Returns the bytes of the whole file."


def test_right_marks_stay_as_they_are():
    answer = "[1] The list is sorted in place. [2] It returns the bytes of the file."
    assert repaired(answer, _passages(SORT, READ)) == (answer, [])
    assert repaired("No marks here.", _passages(SORT)) == ("No marks here.", [])


def test_a_mark_moves_to_the_passage_that_supports_its_claim():
    answer, made = repaired("[2] The list is sorted in place.", _passages(SORT, READ))
    assert answer == "[1] The list is sorted in place."
    assert made == [Repair(2, 1, "The list is sorted in place.")]
    assert repaired("It returns the bytes of the file [7].", _passages(SORT, READ))[0].endswith("the file [2].")


def test_a_mark_that_nothing_supports_goes_and_the_sentence_stays():
    for wrong in ("Bananas are yellow fruit [1].", "Bananas are yellow fruit [9]."):
        answer, made = repaired(wrong, _passages(SORT, READ))
        assert answer == "Bananas are yellow fruit."
        assert [repair.moved_to for repair in made] == [None]
    assert repaired("[1] Bananas are yellow fruit.", _passages(SORT))[0] == "Bananas are yellow fruit."


def test_two_marks_of_a_claim_do_not_become_the_same_one():
    answer, made = repaired("The list is sorted in place [1][2].", _passages(SORT, READ))
    assert answer == "The list is sorted in place [1]." and len(made) == 1


def test_repairing_twice_is_repairing_once_and_leaves_nothing_weak():
    wrong = "[2] The list is sorted in place. [1] It returns the bytes of the file. [3] Bananas are yellow fruit."
    once, made = repaired(wrong, _passages(SORT, READ))
    assert len(made) == 3 and repaired(once, _passages(SORT, READ)) == (once, [])
    citations, unknown = cite(once, _passages(SORT, READ))
    assert unknown == [] and all(citation.verified for citation in citations)


DELETES = [
    {"passage_id": "p", "title": "os.remove", "text": "The function deletes the file. The timeout is 60 seconds."}
]
DENIES = [{"passage_id": "p", "title": "os.walk", "text": "It does not follow links. Folders, not files, are listed."}]


@pytest.mark.parametrize(
    ("answer", "passages", "verified"),
    [
        ("The function deletes the file [1].", DELETES, True),
        ("The function does not delete the file [1].", DELETES, False),
        ("The timeout is 60 seconds [1].", DELETES, True),
        ("The timeout is 30 seconds [1].", DELETES, False),
        ("It does not follow links [1].", DENIES, True),
        ("It follows links [1].", DENIES, False),
        ("Folders are listed [1].", DENIES, True),
    ],
)
def test_numbers_and_denials_have_to_be_those_of_the_passage(answer, passages, verified):
    (found,), unknown = cite(answer, passages)
    assert found.verified is verified and not unknown


def test_an_index_in_code_is_no_mark():
    passages = [{"passage_id": "p", "title": "sys.argv", "text": "`argv[0]` is the script name."}]
    answer = "[1] `argv[0]` is the script name."
    (found,), unknown = cite(answer, passages)
    assert found.marker == 1 and found.verified and not unknown
    assert repaired(answer, passages) == (answer, [])
    assert repaired("``x[3]`` is blue.", passages) == ("``x[3]`` is blue.", [])
