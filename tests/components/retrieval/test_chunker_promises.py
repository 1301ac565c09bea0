"""What every chunker of the menu promises, on nasty texts; a file that joins the menu joins this test by itself."""

import hashlib
import itertools
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from components.data import menu
from components.retrieval.chunkers import Embed, Span, chunker

FOLDER = "components.retrieval.chunkers"
NAMES = ("", "a.py", "b.rs", "c.md", "d.tsx")
_LINES = [
    *("# Heading", "## Über ##", "Setext\n===", "- item", "> quote", "```\ncode\n```", "| a | b |\n| --- | --- |"),
    *(
        "def f(a, b=1):\n    return a + b",
        "class A:\n    def g(self): pass",
        "fn main() { let x = 1; }",
        "}}}}((((",
        '"""',
    ),
    *(
        "A sentence. Another one! And a third? Yes.",
        "Dr. No, e.g., said: “Hm…”",
        "漢字かな。次の文。",
        "ﬁ ㌔ Å",
    ),
    *("e\u0301\u0301\u0301", "👩‍👩‍👧‍👦" * 3, "\u200b\u200d\ufeff", "\x1c\x1d\x85\u2028\u2029", "\r\n", "\r", "\t\t"),
    *("\x00\x07", "a" * 400, "_" * 90, "1,2;3. 4"),
]
_JOINTS = ["", " ", "\n", "\n\n", "\r\n", "  \n\t\n", ". ", "\u00a0"]
NASTY = st.one_of(
    st.text(max_size=300),
    st.lists(st.tuples(st.sampled_from(_LINES) | st.text(max_size=12), st.sampled_from(_JOINTS)), max_size=60).map(
        lambda parts: "".join(itertools.chain.from_iterable(parts))
    ),
).filter(lambda text: not any("\ud800" <= c <= "\udfff" for c in text))


def _words() -> Tokenizer:
    """Tokens are words and marks."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def _bytes() -> Tokenizer:
    """Tokens are bytes, white space too, but for a few pairs: a piece has more or fewer alone than in its text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: number for number, letter in enumerate(alphabet)}
    merges = [("a", "a"), ("aa", "aa"), ("Ġ", "a"), ("e", "r"), ("t", "h")]
    vocabulary |= {a + b: len(vocabulary) + number for number, (a, b) in enumerate(merges)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pieces() -> Tokenizer:
    """Tokens are pieces of words, as in BERT: accents go, a word of over a hundred letters is one unknown token."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = {"[UNK]": 0, **{letter: 1 + n for n, letter in enumerate(letters)}}
    vocabulary |= {f"##{letter}": 100 + n for n, letter in enumerate(letters)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


TOKENIZERS: dict[str, Tokenizer] = {"words": _words(), "bytes": _bytes(), "pieces": _pieces()}


def _embed(texts: Sequence[str]) -> np.ndarray:
    """A vector by a text's letters: the same for the same text, unlike for another."""
    made = [np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype=np.uint8) - 127.5 for text in texts]
    return np.array([vector / np.linalg.norm(vector) for vector in made], dtype=np.float32)


def _chunker(
    name: str, tokenizer: Tokenizer, max_tokens: int, overlap: int, embed: Embed = _embed
) -> Callable[..., list[Span]]:
    values = {"name": name, "max_tokens": max_tokens, "overlap": overlap}
    return chunker(tokenizer, menu.chosen(FOLDER, values, "chunker"), embed)  # type: ignore[arg-type]


def check(text: str, spans: list[Span], tokenizer: Tokenizer, max_tokens: int, overlap: int) -> None:
    """Refuse spans that break a promise."""
    count = lambda piece: len(tokenizer.encode(piece, add_special_tokens=False).ids)  # noqa: E731
    covered = bytearray(len(text))
    for span in spans:
        assert 0 <= span.start < span.end <= len(text)
        piece = text[span.start : span.end]
        assert piece == piece.strip() != ""
        assert span.n_tokens == count(piece)
        assert span.n_tokens <= max_tokens or len(piece) == 1
        assert len(piece) <= 32 * max_tokens
        covered[span.start : span.end] = b"\1" * (span.end - span.start)
    assert not [c for i, c in enumerate(text) if not covered[i] and not c.isspace()], "lost"
    for before, after in itertools.pairwise(spans):
        assert before.start < after.start and before.end < after.end
        shared = text[after.start : before.end] if after.start < before.end else ""
        assert count(shared) <= overlap


@pytest.mark.parametrize("tokenizer", sorted(TOKENIZERS))
@pytest.mark.parametrize("name", menu.names(FOLDER))
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(text=NASTY, limits=st.sampled_from([(8, 0), (8, 7), (12, 3), (40, 10)]), document=st.sampled_from(NAMES))
@example(text="a" * 2000, limits=(8, 3), document="")
@example(text="\n".join(_LINES), limits=(12, 3), document="a.py")
@example(text=" \n\t\x1c", limits=(8, 0), document="")
def test_spans_keep_the_text_the_limits_and_the_order(
    name: str, tokenizer: str, text: str, limits: tuple[int, int], document: str
) -> None:
    used = TOKENIZERS[tokenizer]
    cut = _chunker(name, used, *limits)
    spans = cut(text, document)
    check(text, spans, used, *limits)
    assert cut(text, document) == spans
    if not text.strip():
        assert spans == []


@pytest.mark.parametrize("name", menu.names(FOLDER))
def test_overlap_is_used_where_there_is_room(name: str) -> None:
    """Twelve sentences of three words and a mark, all on one topic, three to a piece, with room to repeat one."""
    text = " ".join(f"w{number} is here." for number in range(12))
    alike = lambda texts: np.ones((len(texts), 2), dtype=np.float32)  # noqa: E731
    repeats = [
        sum(after.start < before.end for before, after in itertools.pairwise(spans))
        for spans in (_chunker(name, TOKENIZERS["words"], 12, overlap, alike)(text) for overlap in (0, 5))
    ]
    assert repeats[0] == 0 and repeats[1] > 0


@pytest.mark.parametrize("name", menu.names(FOLDER))
def test_a_long_line_among_others_takes_time_by_its_length(name: str) -> None:
    """A tenth of a megabyte takes a second or two; looked at anew for each piece it would take minutes."""
    text = "# Title\n\nshort\n" + "word " * 20_000 + "x" * 4000 + "\n\nthe end\n"
    started = time.process_time()
    spans = _chunker(name, TOKENIZERS["pieces"], 60, 10)(text, "a.py")
    assert time.process_time() - started < 20
    check(text, spans, TOKENIZERS["pieces"], 60, 10)
