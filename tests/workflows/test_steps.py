"""build_steps as people run it, on a small file and on GSM8K's."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from components.data import store
from components.data.solutions import final_answer
from tests.workflows import warm

ROOT = Path(__file__).resolve().parents[2]
CONFIG = str(ROOT / "workflows/configs/build_steps/gsm8k.yaml")


def _write(path: Path, rows: list) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def _problem(number: int) -> dict:
    """Two right solutions and two wrong ones of `number + 2`, one of them by wrong arithmetic."""
    right, wrong = number + 2, number + 3
    texts = {
        f"{number}+2 = {right}\nA: {right}": True,
        f"2+{number} = {right}\nA: {right}": True,
        f"It is one more than 2.\n{number}+2 = {wrong}\nA: {wrong}": False,
        f"It is hard.\nA: {wrong}": False,
    }
    solutions = [{"solution": text, "is_correct": is_right} for text, is_right in texts.items()]
    reference = f"{number}+2 = <<{number}+2={right}>>{right} in all.\n#### {right}"
    return {"question": f"What is {number} and 2?", "ground_truth": reference, "solutions": solutions}


def test_judged_solutions_become_pairs_and_steps(tmp_path: Path) -> None:
    file = _write(tmp_path / "solutions.jsonl", [_problem(number) for number in range(3, 33)])
    arguments = (CONFIG, f"file={file}", f"storage={tmp_path}/st", "test_share=0.3")
    code, line, log = warm.ask("build_steps", *arguments, "preferences=sums", "limit=20")
    assert code == 0, log
    assert sorted(line["outputs"]) == ["preferences", "steps"] and "#sums@" in line["outputs"]["preferences"]
    pairs, rows = store.read(line["outputs"]["preferences"]), store.read(line["outputs"]["steps"])
    assert len(pairs) == 40 and len(rows) == 20 * (1 + 1 + 4)
    by_text = {"\n".join(step["text"] for step in row["steps"]): row for row in rows}
    labels = [step["label"] for step in by_text["It is one more than 2.\n5+2 = 8\nA: 8"]["steps"]]
    assert labels == [None, 0.0, 0.0]
    assert by_text["5+2 = 7 in all.\n#### 7"]["kind"] == "reference"
    assert line["metrics"]["pairs/train"] + line["metrics"]["pairs/test"] == 40
    assert line["metrics"]["steps/unlabelled"] == 20 * 2
    again = warm.ask("build_steps", *arguments, "preferences=sums", "limit=20")
    assert again[1] == line and "is done already" in again[2]


def test_reference_answers_give_steps_only(tmp_path: Path) -> None:
    rows = [{"question": f"q{number}", "answer": _problem(number)["ground_truth"]} for number in range(9)]
    code, line, log = warm.ask(
        "build_steps", f"file={_write(tmp_path / 'a.jsonl', rows)}", f"storage={tmp_path}/st", "spoiled=0"
    )
    assert code == 0, log
    assert list(line["outputs"]) == ["steps"]
    made = store.read(line["outputs"]["steps"])
    assert len(made) == 9 and all(step["label"] == 1.0 for row in made for step in row["steps"])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "the key 'file' is required"),
        (["file=/no/solutions.jsonl"], "/no/solutions.jsonl"),
        (["file={tmp}/broken.jsonl"], "broken.jsonl line 2: needs 'solutions' or an 'answer'"),
        (["file={tmp}/broken.jsonl", "--plan"], "broken.jsonl line 2: needs 'solutions' or an 'answer'"),
        (["file={tmp}/broken.jsonl", "steps=preferences"], "both name the table 'preferences'"),
        (["file={tmp}/broken.jsonl", "spoild=1"], "did you mean 'spoiled'"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    tmp_path: Path, tmp_storage: Path, arguments: list[str], says: str
) -> None:
    _write(tmp_path / "broken.jsonl", [_problem(3), {"question": "q"}])
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    code, line, log = warm.ask("build_steps", *filled, f"storage={tmp_storage}")
    assert (code, line["status"]) == (2, "invalid"), log
    assert says in line["outputs"]["error"] and "Traceback" not in log
    assert not (tmp_storage / "lancedb").exists()


def test_the_plan_says_what_the_file_holds(tmp_path: Path) -> None:
    file = _write(tmp_path / "solutions.jsonl", [_problem(number) for number in range(3, 7)])
    done = subprocess.run(
        [sys.executable, "-m", "workflows.build_steps", f"file={file}", f"storage={tmp_path}/st", "--plan"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and not (tmp_path / "st").exists()
    for says in ("questions: 4", "reference solutions: 4", "judged solutions: 16"):
        assert says in done.stdout


def test_real_judged_solutions_add_up_and_do_not_leak(shared_data: Path, tmp_path: Path) -> None:
    path = shared_data / "gsm8k" / "scored_solutions.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    with gzip.open(path, "rt") as lines:
        given = [json.loads(text) for text in lines]
    code, line, log = warm.ask(
        "build_steps", CONFIG, f"file={path}", f"storage={tmp_path}/st", "test_share=0.2", "per_prompt=9"
    )
    assert code == 0, log
    pairs, rows = store.read(line["outputs"]["preferences"]), store.read(line["outputs"]["steps"])
    judged = [(row["question"], item["solution"], item["is_correct"]) for row in given for item in row["solutions"]]
    kinds = [row["kind"] for row in rows]
    assert kinds.count("reference") == len(given) and 0.9 * len(given) < kinds.count("spoiled") <= len(given)
    assert 0.99 * len(judged) < kinds.count("sampled") <= len(judged)  # some say the same
    assert 0.99 * sum(not is_right for *_, is_right in judged) < len(pairs) <= sum(not right for *_, right in judged)
    metrics = line["metrics"]
    assert metrics["pairs/train"] + metrics["pairs/test"] == len(pairs)
    assert metrics["solutions/train"] + metrics["solutions/test"] == len(rows)
    assert sum(metrics[f"steps/{label}"] for label in ("right", "wrong", "unlabelled")) == sum(
        len(row["steps"]) for row in rows
    )

    sides: dict[str, set[str]] = {}
    for row in [*pairs, *rows]:
        sides.setdefault(row["prompt_id"], set()).add(row["split"])
    assert len(sides) == len(given) and all(len(own) == 1 for own in sides.values())
    prompts = {
        side: {row["prompt"][0]["content"] for row in rows if row["split"] == side} for side in ("train", "test")
    }
    assert not prompts["train"] & prompts["test"] and 0.1 < len(prompts["test"]) / len(given) < 0.3
    assert prompts["train"] | prompts["test"] == {row["question"] for row in given}

    right = {row["question"]: final_answer(row["ground_truth"]) for row in given}
    for row in rows:
        steps = [step["label"] for step in row["steps"]]
        assert steps[-1] == float(row["outcome"]) and (0.0 in steps) == (not row["outcome"])
        if row["kind"] == "spoiled":
            assert final_answer(row["steps"][-1]["text"]) != right[row["prompt"][0]["content"]]
    said = [row[side][0]["content"] for row in pairs for side in ("chosen", "rejected")]
    assert not any(re.search("<<[^<>]*>>", text) for text in said)
