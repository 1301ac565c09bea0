import pytest

from components.data.sentences import clip, description, mentions, prose_asks, sentences, symbol_asks, third_person


def test_wrapped_lines_make_one_sentence_and_signatures_none():
    text = (
        "f(x, *, y=1) -> int\n\nReturn the value of x in the\nlist, e.g. the first.  It is never negative when\n"
        "follow is true and the first value that was found\n  is kept."
    )
    assert sentences(text) == [
        "Return the value of x in the list, e.g. the first.",
        "It is never negative when follow is true and the first value that was found is kept.",
    ]


def test_lists_code_and_parameters_are_left_out():
    text = "Change the mode of a file.\n\n  path\n    The file.\n  >>> chmod(1)\n- an item\n\n"
    text += "This needs a path that exists."
    assert sentences(text) == ["Change the mode of a file.", "This needs a path that exists."]


@pytest.mark.parametrize(
    "text",
    ["", "x = 1; y(2)", "If it fails, raise an error.", "mu is the mean of it.", "Deprecated since 3.1 for good."],
)
def test_a_text_that_does_not_open_with_what_it_is_gives_nothing(text):
    assert sentences(text) == []


def test_prose_without_capitals_is_split_too():
    assert sentences("the flow is steady . the wing has a tip .", opening=False) == [
        "the flow is steady.",
        "the wing has a tip.",
    ]


def test_clipping_keeps_whole_sentences_and_at_least_one():
    assert clip(["a b c", "d e", "f"], 5) == ["a b c", "d e"]
    assert clip(["a b c"], 1) == ["a b c"]


def test_the_kinds_of_question_about_a_function():
    parts = ["Return the size of a file.", "If path is None, the current directory is used.", "The size is in bytes."]
    asks = symbol_asks("os.size_of", "function", "os", parts)
    assert [(ask.kind, ask.question, ask.position) for ask in asks] == [
        ("what", "What does `os.size_of` do?", 0),
        ("which", "Which function of the `os` module returns the size of a file?", 0),
        ("detail", "With `os.size_of`, what happens if path is None?", 1),
        ("detail", "What is said about the size of `os.size_of`?", 2),
    ]
    assert [ask.answer for ask in asks] == [parts[0], "It is `os.size_of`.", parts[1], parts[2]]


def test_which_is_not_asked_where_the_sentence_gives_the_name_away():
    assert all(
        ask.kind != "which" for ask in symbol_asks("shutil.copy", "function", "shutil", ["Copy a file to a folder."])
    )
    assert mentions("os.copies", "it copies") and not mentions("os.copy", "a photograph")


def test_descriptions_are_grammatical():
    assert description("Copy the file to disk.", "function") == "copies the file to disk"
    assert description("Base class for all errors.", "class") == "is the base class for all errors"
    assert description("A parser for dates.", "class") == "is a parser for dates"
    assert description("Base class for all errors.", "function") is None
    assert [third_person(v) for v in ("get", "copy", "fetch", "display", "do")] == [
        "gets",
        "copies",
        "fetches",
        "displays",
        "does",
    ]


def test_prose_is_asked_about_details_and_missing_words():
    parts = ["The lift of a slender wing grows with its angle.", "If the flow separates, the wing stalls at once."]
    asks = prose_asks("Wings", parts, lambda word: float(word == "slender"))
    assert (
        "cloze",
        'Which word is missing: "The lift of a ____ wing grows with its angle."',
        "The word is `slender`.",
    ) in [(a.kind, a.question, a.answer) for a in asks]
    assert "What happens if the flow separates?" in [a.question for a in asks if a.kind == "detail"]
