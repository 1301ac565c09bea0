"""Where each chunker of the menu cuts; what all of them promise is in test_chunker_promises."""

import itertools
import random

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from components.config import UserError, parse
from components.retrieval.chunkers import ChunkerConfig, chunker
from components.retrieval.chunkers.code import Code
from components.retrieval.chunkers.markdown import Markdown
from components.retrieval.chunkers.recursive import Recursive
from components.retrieval.chunkers.semantic import Semantic, gap_depths
from components.retrieval.chunkers.sentence import Sentence
from components.retrieval.chunkers.tokens import Tokens


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """A tokenizer whose tokens are words and marks, so that a test can count them itself."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _count(text: str) -> int:
    return len(pre_tokenizers.Whitespace().pre_tokenize_str(text))


def _pieces(text: str, cut, name: str = "") -> list[str]:
    return [text[span.start : span.end] for span in cut(text, name)]


def _text(seed: int) -> str:
    rng = random.Random(seed)
    pieces = [
        "naïve",
        "😀",
        "os.path.join(a, *p)",
        "end.",
        "\n",
        "\n\n",
        "  \n\t\n",
        "Über",
        ">>> x",
        "e\u0301",
        "\r\n",
        "word",
    ]
    return " ".join(rng.choice(pieces) for _ in range(rng.randrange(1, 400)))


@pytest.mark.parametrize("seed", range(25))
def test_spans_keep_the_text_the_limit_and_the_order(words: Tokenizer, seed: int) -> None:
    text = _text(seed)
    spans = chunker(words, Tokens(max_tokens=20, overlap=5))(text)
    covered = set()
    for span in spans:
        piece = text[span.start : span.end]
        assert piece == piece.strip() != ""
        assert span.n_tokens == _count(piece) <= 20
        covered.update(range(span.start, span.end))
    assert not [c for i, c in enumerate(text) if i not in covered and not c.isspace()]
    assert [span.start for span in spans] == sorted(span.start for span in spans)
    for before, after in itertools.pairwise(spans):
        assert _count(text[after.start : before.end]) <= 5


def test_overlap_repeats_the_end_of_the_piece_before(words: Tokenizer) -> None:
    text = " ".join(f"w{number}" for number in range(30))
    spans = chunker(words, Tokens(max_tokens=10, overlap=4))(text)
    assert [text[s.start : s.end].split()[0] for s in spans] == ["w0", "w6", "w12", "w18", "w24"]
    without = chunker(words, Tokens(max_tokens=10, overlap=0))(text)
    assert [text[s.start : s.end].split()[0] for s in without] == ["w0", "w10", "w20"]


def test_a_heading_or_signature_stays_with_what_follows(words: Tokenizer) -> None:
    body = " ".join(["word"] * 8) + ".\n" + " ".join(["more"] * 8) + "."
    for heading in ("# Title", "os.path.join"):
        text = f"{heading}\n\n{body}"
        first = chunker(words, Tokens(max_tokens=16, overlap=0))(text)[0]
        assert text[first.start : first.end].startswith(f"{heading}\n\nword word")


def test_white_space_has_no_spans_and_a_short_text_one(words: Tokenizer) -> None:
    cut = chunker(words, Tokens())
    assert cut("") == cut(" \n\n\t") == []
    (span,) = cut("  short text\n")
    assert (span.start, span.end, span.n_tokens) == (2, 12, 2)


def test_overlap_as_large_as_the_piece_is_refused() -> None:
    with pytest.raises(UserError, match="overlap 10 must be smaller than max_tokens 10"):
        parse(Tokens, {"name": "tokens", "max_tokens": 10, "overlap": 10})


def test_an_unknown_chunker_is_refused(words: Tokenizer) -> None:
    with pytest.raises(UserError, match="choose one of code, markdown, recursive, semantic, sentence, tokens"):
        chunker(words, ChunkerConfig(name="magic"))


def test_recursive_cuts_at_the_first_separator_that_is_enough(words: Tokenizer) -> None:
    """The first paragraph has 8 words and marks and stays whole; the second has 14 and is cut after its full stop."""
    text = (
        "one two, three four, five six\n\nseven eight nine ten eleven twelve. thirteen fourteen fifteen sixteen a b c"
    )
    assert _pieces(text, chunker(words, Recursive(name="recursive", max_tokens=8, overlap=0))) == [
        "one two, three four, five six",
        "seven eight nine ten eleven twelve.",
        "thirteen fourteen fifteen sixteen a b c",
    ]
    own = Recursive(name="recursive", max_tokens=8, overlap=0, separators=["|"])
    assert _pieces("a b c d e f|g h i j k l", chunker(words, own)) == ["a b c d e f|", "g h i j k l"]


def test_sentences_stay_whole_and_abbreviations_end_none(words: Tokenizer) -> None:
    """Of 12, 4, 3, 5 and 4 words and marks: 12, then 4 + 3 + 5 = 12, then the rest."""
    text = "Dr. No saw it, e.g. twice. It was red! Was it? A heading without an end\n\nThe last one."
    cut = chunker(words, Sentence(name="sentence", max_tokens=13, overlap=0))
    assert _pieces(text, cut) == [
        "Dr. No saw it, e.g. twice.",
        "It was red! Was it? A heading without an end",
        "The last one.",
    ]


def test_topics_are_cut_where_the_meaning_changes(words: Tokenizer) -> None:
    """Sentences of tea and of trains have orthogonal vectors: the one gap between them is the one break."""
    text = "Tea is green. Tea is hot. Tea is wet. Trains are late. Trains are full. Trains are loud."

    def embed(texts):
        return np.array([[1.0, 0.1] if "Tea" in one else [0.1, 1.0] for one in texts], dtype=np.float32)

    cut = chunker(words, Semantic(name="semantic", max_tokens=100, overlap=20), embed)
    assert _pieces(text, cut) == [
        "Tea is green. Tea is hot. Tea is wet.",
        "Trains are late. Trains are full. Trains are loud.",
    ]
    alike = chunker(words, Semantic(name="semantic", max_tokens=100), lambda texts: np.ones((len(texts), 2)))
    assert _pieces(text, alike) == [text]
    with pytest.raises(UserError, match="was handed no embedder"):
        chunker(words, Semantic(name="semantic"))


def test_a_gap_is_as_deep_as_similarity_falls_from_both_peaks() -> None:
    """Of [.9 .2 .5 .4 .8] the second: left peak .9, right peak .5 (then it falls): .7 + .3."""
    assert gap_depths(np.array([0.9, 0.2, 0.5, 0.4, 0.8])) == pytest.approx([0.0, 1.0, 0.0, 0.5, 0.0])
    rng = np.random.default_rng(0)
    for _ in range(20):
        own = rng.random(30).round(1)  # with ties
        slow = []
        for place in range(30):
            left = right = place
            while left > 0 and own[left - 1] >= own[left]:
                left -= 1
            while right < 29 and own[right + 1] >= own[right]:
                right += 1
            slow.append(own[left] + own[right] - 2 * own[place])
        assert gap_depths(own) == pytest.approx(slow)


def test_markdown_keeps_sections_that_fit_and_crosses_no_heading(words: Tokenizer) -> None:
    text = (
        "Before all.\n\n# Tea\n\nGreen or black tea.\n\n## Water\n\nEighty degrees.\n\n## Time\n\nThree minutes.\n\n"
        "# Trains\n\n- one two three four five six\n- seven eight nine ten eleven twelve\n\n```\n# no heading\n```\n"
    )
    pieces = _pieces(text, chunker(words, Markdown(name="markdown", max_tokens=12, overlap=0)))
    assert pieces[0] == "Before all."
    assert pieces[1:4] == ["# Tea\n\nGreen or black tea.", "## Water\n\nEighty degrees.", "## Time\n\nThree minutes."]
    assert pieces[4].startswith("# Trains") and "# no heading" in pieces[-1]
    whole = _pieces(text, chunker(words, Markdown(name="markdown", max_tokens=24, overlap=0)))
    assert whole[1] == text[text.index("# Tea") : text.index("# Trains")].strip()


def test_code_keeps_functions_whole(words: Tokenizer) -> None:
    first = "def first(a, b):\n    c = a + b\n\n    return c * 2"
    second = "def second(text):\n    for line in text:\n\n        print(line)"
    text = f"import os\n\n\n{first}\n\n\n{second}\n"
    limits = {"max_tokens": 24, "overlap": 0}
    pieces = _pieces(text, chunker(words, Code(name="code", **limits)), "pkg/mod.py")
    assert any(piece.endswith(first) for piece in pieces) and second in pieces
    assert pieces == _pieces(text, chunker(words, Code(name="code", language="python", **limits)))
    assert _pieces(text, chunker(words, Code(name="code", **limits)), "notes.txt") == _pieces(
        text, chunker(words, Tokens(**limits))
    )


@pytest.mark.parametrize(
    "name", ["a.py", "a.js", "a.ts", "a.tsx", "a.java", "a.go", "a.rs", "a.c", "a.h", "a.cc", "a.hpp"]
)
def test_every_language_has_a_grammar(words: Tokenizer, name: str) -> None:
    text = "int f(int a) {\n  return a + 1;\n}\n\n" * 6
    assert _pieces(text, chunker(words, Code(name="code", max_tokens=30, overlap=0)), name)
