"""Windows of token ids over a corpus, in its order."""

from pathlib import Path

import pytest

from components.config import UserError
from components.data import long_text
from components.data.sources.folder import Folder


def encode(text: str, add_special_tokens: bool) -> list[int]:
    assert not add_special_tokens
    return [ord(letter) for letter in text]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    (tmp_path / "a.txt").write_text("abcdefgh")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "c.txt").write_text("ijklmnop")
    return Folder(name="folder", path=str(tmp_path))


def test_windows_follow_each_other_over_documents(folder: Folder) -> None:
    found = long_text.windows(folder, encode, count=3, size=6, lead=[])
    assert ["".join(map(chr, window)) for window in found] == ["abcdef", "gh\n\nij", "klmnop"]
    found = long_text.windows(folder, encode, count=2, size=6, lead=[ord("<")])
    assert ["".join(map(chr, window)) for window in found] == ["<abcde", "<fgh\n\n"]


def test_a_corpus_that_is_too_short_says_how_long_it_is(folder: Folder) -> None:
    with pytest.raises(UserError, match="the corpus has 20 tokens that can be read, and 4 texts of 6 are asked for"):
        long_text.windows(folder, encode, count=4, size=6, lead=[])
