"""The data card's page is self-contained, escapes what people wrote, and a browser shows what it holds."""

from pathlib import Path

import pytest

from components.data.clean import CleanConfig
from components.data.curation import settings
from components.data.data_card import describe
from components.orchestration import data_card
from components.orchestration.data_card import write_data_card
from tests.browser import picture_of
from tests.components.data.test_clean import pair, votes
from tests.components.orchestration.test_card import read_closed

DATA = Path(settings.__file__).parents[1]


def _page(tmp_path: Path, rows: list[dict], dropped: list[dict], left_out: list[dict]) -> str:
    found = {"conflicts": 2, "common_answers": 1}
    path = tmp_path / "data_card.html"
    write_data_card(path, "Preference <data>", describe(rows, dropped, left_out, "db#preferences@3", found))
    return read_closed(path)


@pytest.fixture
def page(tmp_path: Path) -> str:
    rows = [pair(f"What is <b>{n}</b>?", "word " * (n + 1), f"no {n}", source="forum") for n in range(40)]
    rows += [pair(f"Voted {n}?", "yes", "no", "test", source="staff", votes=votes("chosen", "tie")) for n in range(4)]
    dropped = [{**rows[0], "reason": "near_duplicate", "detail": "of abc, similarity 0.987"}]
    return _page(tmp_path, rows, dropped, [{"where": "prefs.jsonl line 7", "reason": "empty"}])


def test_everything_is_within_the_page(page: str) -> None:
    assert "<title>Preference &lt;data&gt;</title>" in page
    assert "What is <b>" not in page and "What is &lt;b&gt;0&lt;/b&gt;?" in page
    assert page.count("<svg") == 4
    assert '<td class="name">forum</td><td class="n">40</td><td class="n">0</td>' in page
    assert "of abc, similarity 0.987" in page and "near-duplicate" in page and "prefs.jsonl line 7" in page
    assert "db#preferences@3" in page
    for outside in ("src=", "<link", "<script", "url(http", "<a ", "@import"):
        assert outside not in page


def test_a_table_without_votes_or_losses_has_a_page_too(tmp_path: Path) -> None:
    text = _page(tmp_path, [pair("a", "x", "y")], [], [])
    assert "No pair has votes." in text and "<td>nothing</td>" in text and text.count("<svg") == 3
    assert _page(tmp_path, [], [], []).count("<svg") == 0


def test_pairs_that_were_not_cleaned_have_a_page_that_does_not_say_what_cleaning_found(tmp_path: Path) -> None:
    path = tmp_path / "data_card.html"
    write_data_card(path, "Sampled", describe([pair("a", "x", "y")], [], [], "db#preferences@3", {}))
    assert "contradicts" not in path.read_text() and "kept pairs have equal scores" in path.read_text()


def test_every_reason_that_a_filter_gives_has_words_for_people() -> None:
    """The filters' sources and the words are two lists of the same reasons."""
    names = ("preference_files.py", "curation/row_filters.py", "curation/near.py", "curation/contamination.py")
    source = "".join((DATA / name).read_text() for name in names)
    assert len(data_card._WORDS) == 20
    for reason in data_card._WORDS:
        assert f'"{reason}"' in source, f"no filter gives the reason {reason!r}"
    assert CleanConfig().uses_vectors


def test_a_browser_shows_it(page: str, tmp_path: Path) -> None:
    picture = picture_of(tmp_path / "data_card.html", tmp_path, width=1100, height=1600)
    from matplotlib.image import imread

    pixels = imread(picture)
    assert pixels.shape[:2] == (1600, 1100)
    blue = (pixels[..., 2] > 0.9) & (pixels[..., 0] < 0.4) & (pixels[..., 1] < 0.5)
    assert blue.sum() > 2_000  # the bar of the training pairs
