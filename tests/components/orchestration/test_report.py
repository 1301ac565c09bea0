"""The report is one self-contained page, and a browser shows what it holds."""

import json
from pathlib import Path

import pytest

from components.orchestration.report import first_and_last, write_report
from tests.browser import picture_of

EVALUATION = {
    "score": {"mean": 0.5, "low": 0.4, "high": 0.6, "n": 200},
    "answer_tokens": {"mean": 21.5, "low": 20, "high": 23, "n": 200},
}
LINEAGE = {
    "kind": "quantized-model",
    "lineage_id": "a" * 64,
    "run_id": "r",
    "commit": "c" * 40,
    "facts": {"method": "w8a8_int8"},
    "parents": [{"reference": "/db#demonstrations@3"}],
}
TURN = {
    "model": "docs-assistant-rag",
    "question": "What does `os.path.join` do?",
    "content": "It joins <b>path</b> names [1].",
    "reasoning": None,
    "stream": True,
    "ttft_s": 0.12,
    "latency_s": 0.5,
    "citations": [
        {
            "marker": 1,
            "title": "os.path.join",
            "source": "python_docs",
            "score": 0.9,
            "passage_id": "p1",
            "quote": "Join two or more",
        }
    ],
}


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    write_report(
        path,
        title="A toy",
        steps=[{"name": "train_sft", "workflow": "train_sft", "status": "done", "seconds": 12.3, "run_id": "r1"}],
        evaluations={"base": {"score": EVALUATION["score"]}, "sft": EVALUATION},
        curves={"SFT": {"train/loss": [(1, 2.0), (2, 1.0)], "unknown": [(1, 1.0), (2, 1.0)]}},
        figures={"Quantization": {"bytes": 156_000_000.0, "kl": 0.0123}},
        transcript=[TURN],
        lineage=LINEAGE,
    )
    return path


def test_everything_is_within_the_page(page: Path) -> None:
    text = page.read_text()
    assert "0.500 [0.400, 0.600]" in text
    assert "21.5 [20.0, 23.0]" in text
    assert text.count("<svg") == 2
    assert "156.0 M" in text
    assert "Join two or more" in text
    assert "/db#demonstrations@3" in text
    for outside in ("src=", "<link", "<script", "url(http"):
        assert outside not in text


def test_what_a_model_wrote_is_escaped(page: Path) -> None:
    text = page.read_text()
    assert "<b>path</b>" not in text
    assert "&lt;b&gt;path&lt;/b&gt;" in text


def test_a_sweep_is_a_table_and_a_plot(tmp_path: Path) -> None:
    common = {"status": "done", "seconds": 1.0, "error": ""}
    points = [
        {"name": "dpo-1", "values": {"loss.beta": 0.1, "loss.name": "dpo"}, "value": 0.625, "run_id": "r1", **common},
        {"name": "dpo-2", "values": {"loss.beta": 3.0}, "value": 0.75, "run_id": "r2", **common},
        {"name": "dpo-3", "values": {"loss.beta": 9.0}, "value": None, "run_id": None, **common}
        | {"status": "failed", "error": "it <b>broke</b>"},
    ]
    comparison = {"sweep": "dpo", "metric": "eval/accuracy", "mode": "max", "keys": ["loss.beta", "loss.name"]}
    path = tmp_path / "report.html"
    nothing: dict = {"evaluations": {}, "curves": {}, "figures": {}}
    write_report(
        path,
        title="A sweep",
        steps=[],
        **nothing,
        transcript=[],
        lineage=None,
        sweeps={"Which beta": {**comparison, "best": "dpo-2", "points": points}},
    )
    text = path.read_text()
    assert text.count("<svg") == 1 and "3 points; the best has the highest eval/accuracy" in text
    best = text[text.index('<tr class="best">') :]
    assert "dpo-2" in best[:60] and "0.75" in best[:300] and text.count('class="best"') == 1
    assert "it &lt;b&gt;broke" in text


def test_answers_before_and_after_a_training_are_shown_together(tmp_path: Path) -> None:
    samples = tmp_path / "samples.jsonl"
    common = {"reward": 0.5, "judge": None, "finished": True}
    lines = [
        {"iteration": number, "place": place, "question": asked, "answer": f"answer {number} to {place}", **common}
        for number in (0, 3, 6)
        for place, asked in enumerate(["first?", "<b>second</b>?", "first?"])
    ]
    lines[-1] |= {"judge": 0.75, "finished": False}
    samples.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = first_and_last(samples)
    assert [one["question"] for one in found] == ["first?", "<b>second</b>?", "first?"]
    assert [[look["answer"] for look in one["looks"]] for one in found] == [
        [f"answer 0 to {place}", f"answer 6 to {place}"] for place in range(3)
    ]
    path = tmp_path / "report.html"
    nothing: dict = {"steps": [], "evaluations": {}, "curves": {}, "figures": {}, "transcript": [], "lineage": None}
    write_report(path, title="Answers", **nothing, answers={"What PPO made of them": found})
    text = path.read_text()
    assert "What PPO made of them" in text and "answer 3 to" not in text
    assert text.count("reward 0.5") == 6 and text.count("judge 0.75, cut off") == 1
    assert "&lt;b&gt;second" in text and "<b>second" not in text
    samples.write_text("")
    assert first_and_last(samples) == []
    other = [
        {**common, "iteration": number, "place": 0, "question": f"{number}?", "answer": "."} for number in (1, 2, 3)
    ]
    samples.write_text("".join(json.dumps(line) + "\n" for line in other))  # of prompts that are trained on
    assert [(one["question"], len(one["looks"])) for one in first_and_last(samples)] == [("1?", 1), ("3?", 1)]


def test_a_browser_shows_it(page: Path, tmp_path: Path) -> None:
    picture = picture_of(page, tmp_path, width=1100, height=1600)
    from matplotlib.image import imread

    pixels = imread(picture)
    assert pixels.shape[:2] == (1600, 1100)
    assert pixels[..., :3].std() > 0.05  # an empty page is all one colour
