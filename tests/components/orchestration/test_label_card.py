"""The page of labelled answers is self-contained, escapes what people wrote, and says what to set."""

import json
from pathlib import Path

from components.data.label_card import describe
from components.data.labelled_files import read_labelled
from components.orchestration import label_card
from components.orchestration.label_card import write_label_card
from tests.components.data.test_label_card import answer
from tests.components.orchestration.test_card import read_closed


def _page(tmp_path: Path, rows: list[dict]) -> str:
    path = tmp_path / "data_card.html"
    write_label_card(path, "Answers", describe(rows, {"repeated": 1, "conflicting": 2}, "db#answers@3"))
    return read_closed(path)


def test_everything_is_within_the_page(tmp_path: Path) -> None:
    rows = [
        answer(f"What is <b>{n}</b>?", "word " * (n + 1), n % 4 == 0, "test" if n > 31 else "train") for n in range(40)
    ]
    text = _page(tmp_path, rows)
    assert "What is <b>" not in text and "What is &lt;b&gt;" in text
    assert text.count("<svg") == 2 and text.count('<div class="card">') == 6
    for part in ("loss.desirable=3 loss.undesirable=1", "an answer called both good and bad", "db#answers@3"):
        assert part in text
    row = "".join(f'<td class="n">{count}</td>' for count in (8, 24, 2, 6))
    assert f'<td class="name">forum</td>{row}' in text
    for outside in ("src=", "<link", "<script", "url(http", "<a ", "@import"):
        assert outside not in text


def test_answers_of_one_kind_have_a_page_that_says_so(tmp_path: Path) -> None:
    text = _page(tmp_path, [answer("One?", "yes", False)])
    assert "Every training answer has the same label" in text and "longer than a bad one" not in text


def test_every_reason_for_leaving_an_answer_out_has_words_for_people(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl"
    path.write_text(json.dumps({"prompt": "One?", "completion": "Yes.", "label": True}))
    assert set(read_labelled(path, 0.0)[1]) == set(label_card._WORDS)
