"""Spans slice back to the text, stay within the limit, lose nothing and overlap as asked."""

import itertools
import random

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from components.config import UserError, parse
from components.retrieval.chunkers import ChunkerConfig, chunker
from components.retrieval.chunkers.tokens import Tokens


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    """A tokenizer whose tokens are words and marks, so that a test can count them itself."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _count(text: str) -> int:
    return len(pre_tokenizers.Whitespace().pre_tokenize_str(text))


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
    with pytest.raises(UserError, match="choose one of tokens"):
        chunker(words, ChunkerConfig(name="magic"))
