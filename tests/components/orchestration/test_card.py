"""The health card is one self-contained page that says its verdict first, and a browser shows what it holds."""

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from components.orchestration.card import write_card
from tests.browser import picture_of

VOID = {"meta", "br", "path", "use", "rect", "link", "img"}


def _figure(mean: float | None, n: int = 40) -> dict[str, Any]:
    return {"mean": mean, "low": None if mean is None else mean - 0.1, "high": None if mean is None else mean, "n": n}


def _card(**changes: Any) -> dict[str, Any]:
    bins = [{"low": i / 10, "high": (i + 1) / 10, "n": 0, "predicted": None, "observed": None} for i in range(10)]
    bins[8] |= {"n": 40, "predicted": 0.85, "observed": 0.75}
    check = {"name": "accuracy", "measured": _figure(0.625), "needed": "at least 0.65", "passed": False}
    card: dict[str, Any] = {
        "good_enough": False,
        "because": ["The chosen answer wins in 0.625 <b>of</b> 40 pairs, but the least allowed is 0.65."],
        "checks": [{**check, "sentence": ""}, {**check, "name": "position gap", "passed": True, "sentence": ""}],
        "pairs": 40,
        "thresholds": {"min_accuracy": 0.65},
        "accuracy": {
            "overall": _figure(0.625),
            "by_margin": {"0.1 to 0.5": _figure(0.5, 20), "1": _figure(0.75, 20)},
            "margin_of": "score",
            "by_kind": {"which": _figure(0.625)},
            "by_source": {"perturbed:<i>rambles</i>": _figure(0.625)},
        },
        "calibration": {
            "bins": bins,
            "ece": 0.1234,
            "ece_by_chance": 0.05,
            "temperature": 1.5,
            "ece_tempered": 0.08,
            "n": 40,
        },
        "length": {name: _figure(0.3) for name in ("pearson", "spearman", "chosen", "shorter_chosen", "longer_chosen")},
        "position": {"gap": _figure(0.011), "flips": _figure(0.0)},
        "duplicates": {"overall": _figure(0.97), "straight_quotes": _figure(None, 0)},
        "perturbed": {"half": _figure(0.9), "another": _figure(0.8)},
        "ensemble": {"heads": 3, "std": _figure(0.4), "most": _figure(0.5, 13), "least": _figure(0.9, 13)},
        "answers": [{"chosen": i % 2 == 0, "reward": i / 10, "words": i} for i in range(80)],
    }
    return card | changes


class _Tags(HTMLParser):
    """Follows which tags are open, so that a page with a tag too many or too few is found."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag, f"</{tag}> closes another tag"


def read_closed(path: Path) -> str:
    """A page's text, after checking that every tag is closed in its turn."""
    text = path.read_text()
    tags = _Tags()
    tags.feed(text)
    assert tags.open == []
    return text


def _written(tmp_path: Path, card: dict[str, Any]) -> str:
    path = tmp_path / "card.html"
    write_card(path, "Reward <model>", card)
    return read_closed(path)


def test_everything_is_within_the_page(tmp_path: Path) -> None:
    text = _written(tmp_path, _card())
    assert text.index("No: not good enough for PPO") < text.index("What was checked") < text.index("<svg")
    assert text.count("<svg") == 4
    assert "0.625 [0.525, 0.625]" in text
    assert "0.123" in text and "1.500" in text
    assert "Disagreement of 3 heads" in text
    assert '<td class="name">straight quotes for curly ones</td><td class="n">–</td>' in text
    for outside in ("src=", "<link", "<script", "url(http", "<a ", "@import"):
        assert outside not in text


def test_a_yes_is_said_as_such(tmp_path: Path) -> None:
    text = _written(tmp_path, _card(good_enough=True, because=["It was."], ensemble=None))
    assert "Yes: good enough for PPO" in text and "No: not" not in text
    assert "<li>It was.</li>" in text
    assert "Disagreement" not in text


def test_what_came_from_elsewhere_is_escaped(tmp_path: Path) -> None:
    text = _written(tmp_path, _card())
    assert "<title>Reward &lt;model&gt;</title>" in text
    assert "0.625 &lt;b&gt;of&lt;/b&gt; 40" in text
    assert "<i>rambles" not in text


def test_a_card_over_nothing_is_written_too(tmp_path: Path) -> None:
    empty = _card(pairs=0, answers=[], perturbed={})
    empty["accuracy"] |= {"by_margin": {}, "by_kind": {}, "by_source": {}}
    empty["calibration"] |= {"ece": None}
    text = _written(tmp_path, empty)
    assert "<svg" not in text
    assert "Accuracy by kind" not in text
    assert "measured on 0 held-out pairs" in text


@pytest.mark.parametrize("reward", [0.25, -3.0])
def test_equal_rewards_and_many_answers_can_be_drawn(tmp_path: Path, reward: float) -> None:
    answers = [{"chosen": i % 2 == 0, "reward": reward, "words": 3} for i in range(9000)]
    text = _written(tmp_path, _card(answers=answers))
    assert text.count("<svg") == 4
    assert len(text) < 1_000_000


def test_a_browser_shows_it(tmp_path: Path) -> None:
    _written(tmp_path, _card())
    picture = picture_of(tmp_path / "card.html", tmp_path, width=1100, height=2200)
    from matplotlib.image import imread

    pixels = imread(picture)
    assert pixels.shape[:2] == (2200, 1100)
    red = (pixels[..., 0] > 0.7) & (pixels[..., 1] < 0.3) & (pixels[..., 2] < 0.3)
    assert red[:500].sum() > 500  # the verdict is a no, on top
    assert pixels[..., :3].std() > 0.05  # an empty page is all one colour
