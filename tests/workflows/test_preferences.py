"""build_preferences and evaluate as people run them, with a tiny model behind a real engine."""

import json
import math
from pathlib import Path

import pytest

from components.data import records, store
from components.data.judge import judge
from components.data.records import Question
from tests.components.data.corpora import passages
from tests.workflows import warm

ROOT = Path(__file__).resolve().parents[2]
SIZES = [
    f"sizes.{key}" for key in ("demonstrations=12", "pair_prompts=8", "pairs=10", "test_questions=8", "test_pairs=4")
]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A passages table as build_index writes it, of 90 passages."""
    rest = {"corpus": "c", "n_tokens": 40, "embedder": "e"}
    rows = [{**row, **rest} for row in passages(6, 15)]
    uri = str(tmp_path_factory.mktemp("index") / "lancedb")
    return store.overwrite(uri, "passages", rows, records.passage_schema(16))


@pytest.fixture(scope="module")
def built(
    index: str, cluster: str, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict, Path]:
    """The JSON line of a run over the index with the tiny model, and its storage."""
    storage = tmp_path_factory.mktemp("built")
    arguments = (f"index={index}", f"model={tiny_model_dir}", f"storage={storage}", "ray.num_cpus=2", *SIZES)
    small = ("sampling.max_new_tokens=8", "questions.passage_words=20", "seed=3")
    code, line, log = warm.ask("build_preferences", *arguments, *small, cluster=cluster)
    assert code == 0, log[-3000:]
    assert "answers" in log
    return line, storage


@pytest.mark.slow
def test_an_index_becomes_questions_demonstrations_and_pairs(built: tuple[dict, Path]) -> None:
    outputs = built[0]["outputs"]
    questions = [Question.from_row(row) for row in store.read(outputs["questions"])]
    demonstrations, pairs = store.read(outputs["demonstrations"]), store.read(outputs["preferences"])
    assert sum(q.split == "test" for q in questions) == 8
    assert sum(row["split"] == "train" for row in demonstrations) == 12
    assert sum(row["split"] == "train" for row in pairs) == 10 and sum(row["split"] == "test" for row in pairs) == 4
    assert any(row["source"] == "sample" for row in pairs)
    by_id = {q.prompt_id: q for q in questions}
    for row in pairs:
        assert row["split"] == by_id[row["prompt_id"]].split
        assert judge(row["rejected"][0]["content"], by_id[row["prompt_id"]]).score == row["rejected_score"]
    assert built[0]["metrics"]["samples/score"] < 0.5  # the tiny model has learned nothing


@pytest.mark.slow
def test_the_same_model_is_evaluated_on_what_was_held_out(
    built: tuple[dict, Path], cluster: str, tiny_model_dir: Path
) -> None:
    line, storage = built
    tables = [f"{name}={line['outputs'][name]}" for name in ("questions", "preferences")]
    place = (f"model={tiny_model_dir}", f"storage={storage}")
    code, found, log = warm.ask("evaluate", *place, *tables, "max_new_tokens=6", cluster=cluster)
    assert code == 0, log[-3000:]
    evaluation = found["outputs"]["evaluation"]
    names = ["abstention_rate", "answer_tokens", "grounded_rate", "preference_accuracy", "score"]
    assert sorted(evaluation) == sorted(found["metrics"]) == names
    for name, values in evaluation.items():
        assert values["low"] <= values["mean"] <= values["high"] and values["n"] > 0
        assert found["metrics"][name] == values["mean"]
    assert math.isclose(
        evaluation["score"]["mean"],
        (evaluation["grounded_rate"]["mean"] + evaluation["abstention_rate"]["mean"]) / 2,
    )
    answers = [json.loads(row) for row in Path(found["outputs"]["answers"]).read_text().splitlines()]
    assert len(answers) == 8 and all(row["tokens"] <= 6 for row in answers)


def test_made_pairs_are_cleaned_only_if_asked_and_have_a_card_too(index: str, tmp_path: Path) -> None:
    arguments = (f"index={index}", f"storage={tmp_path}/st", *SIZES, "questions.passage_words=20", "seed=3")
    code, line, log = warm.ask("build_preferences", *arguments)
    assert code == 0, log[-3000:]
    made = store.read(line["outputs"]["preferences"])
    assert store.count(line["outputs"]["dropped"]) == 0
    assert "dropped/long_answer" not in line["metrics"]
    card = json.loads(Path(line["outputs"]["card"]).with_suffix(".json").read_text())
    assert card["pairs"] == len(made) == 14
    longest = sorted(max(len(row[side][0]["content"]) for side in ("chosen", "rejected")) for row in made)
    vectors = ["clean.duplicates.near=false", "clean.decontaminate.near=false", "clean.decontaminate.test_split=false"]
    code, line, log = warm.ask("build_preferences", *arguments, *vectors, f"clean.lengths.max_answer={longest[-1] - 1}")
    assert code == 0, log[-3000:]
    assert line["metrics"]["dropped/long_answer"] == longest.count(longest[-1])
    assert line["metrics"]["pairs/train"] + line["metrics"]["pairs/test"] == 14 - longest.count(longest[-1])
    assert store.count(line["outputs"]["demonstrations"]) == 20  # of other questions, which nothing was dropped of


def test_an_own_file_needs_neither_index_nor_model(tmp_path: Path) -> None:
    file = tmp_path / "prefs.jsonl"
    rows = [{"prompt": f"Question {i}?", "chosen": f"Yes {i}.", "rejected": "No."} for i in range(30)]
    file.write_text("\n".join(map(json.dumps, [*rows, {"prompt": "x", "chosen": "a", "rejected": "a"}])))
    config = str(ROOT / "workflows/configs/build_preferences/own_file.yaml")
    code, line, log = warm.ask(
        "build_preferences", config, f"file={file}", f"storage={tmp_path}/st", "file_test_share=0.3"
    )
    assert code == 0, log
    assert sorted(line["outputs"]) == ["card", "demonstrations", "dropped", "preferences"]
    pairs = store.read(line["outputs"]["preferences"])
    assert {row["prompt"][0]["content"] for row in pairs} == {row["prompt"] for row in rows}
    assert line["metrics"]["dropped/ties"] == 1
    assert line["metrics"]["pairs/train"] + line["metrics"]["pairs/test"] == 30


def test_own_files_are_cleaned_mixed_and_described(tmp_path: Path) -> None:
    """Three sources with real embeddings: what goes is counted, can be read again, and stands on the card."""
    from mlflow import MlflowClient

    story = "The ferry to the island leaves at seven in the morning and comes back late in the evening"
    forum = [
        {"prompt": f"What about {story}, {n}?", "chosen": f"{n} {story} {n}", "rejected": f"No {n}."} for n in "abcd"
    ]
    forum += [{**forum[0], "prompt": f"So what about {story}, a?"}]  # near
    forum += [{"prompt": "Which bird is it?", "chosen": "A heron.", "rejected": "A crow."}]
    forum += [{"prompt": "Which bird is it?", "chosen": "A crow.", "rejected": "A heron."}]  # the opposite
    topics = ("bread", "rain", "chess", "iron", "Lima", "moss", "bees", "silk", "jazz", "salt")
    staff = [{"prompt": f"Tell me of {t}.", "chosen": f"{t} is old.", "rejected": f"{t}?"} for t in topics]
    for name, rows in (("forum", forum), ("staff", [*staff, {"prompt": "x", "chosen": "", "rejected": "a"}])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = [f"files.{name}={tmp_path}/{name}.jsonl" for name in ("forum", "staff")]
    mix = ["clean.mix.forum=1", "clean.mix.staff=2"]
    place = f"storage={tmp_path}/st"
    code, line, log = warm.ask("build_preferences", *files, *mix, place, "file_test_share=0")
    assert code == 0, log
    figures = {name: value for name, value in line["metrics"].items() if name.startswith("dropped/") and value}
    # forum: 7 - 1 - 2 = 4; staff 10: the scale is min(4 / 1, 10 / 2) = 4, so all of forum and 8 of staff stay.
    assert figures == {"dropped/near_duplicate": 1, "dropped/conflict": 2, "dropped/mix": 2, "dropped/empty": 1}
    rows = store.read(line["outputs"]["preferences"])
    assert sorted(row["source"] for row in rows) == ["forum"] * 4 + ["staff"] * 8
    gone = store.read(line["outputs"]["dropped"])
    assert len(gone) == 5 and all(row["detail"] for row in gone)

    client = MlflowClient(f"sqlite:///{tmp_path}/st/mlflow.db")
    logged = {found.path for found in client.list_artifacts(line["run_id"])}
    assert {"data_card.html", "data_card.json", "left_out.jsonl"} <= logged
    card = json.loads(Path(line["outputs"]["card"]).with_suffix(".json").read_text())
    assert card["pairs"] == 12 and card["dropped"] == {"conflict": 2, "mix": 2, "near_duplicate": 1}
    assert card["counts"] == {"staff": {"train": 8, "test": 0}, "forum": {"train": 4, "test": 0}}
    assert card["no_pair_lines"] == [{"where": f"{tmp_path}/staff.jsonl line 11", "reason": "empty"}]

    for name in ("forum", "staff"):  # the lines in another order: the same table
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(reversed(path.read_text().splitlines())))
    code, again, log = warm.ask("build_preferences", *files, *mix, place, "file_test_share=0")
    assert code == 0 and again["run_id"] != line["run_id"], log
    assert store.read(again["outputs"]["preferences"]) == rows


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give either index (a passages table) or file"),
        (["file={tmp}/good.jsonl", "files.a={tmp}/good.jsonl"], "give either index"),
        (["file={tmp}/good.jsonl", "clean.mix.forum=1"], "clean.mix weighs forum"),
        (["file={tmp}/good.jsonl", "clean.lengths.max_answer=1"], "no pair is left to train on; dropped were 1 long"),
        (["file={tmp}/good.jsonl", "clean.decontaminate.tables=[{tmp}/lancedb#gone]"], "no table 'gone'"),
        (["file=/no/prefs.jsonl"], "/no/prefs.jsonl"),
        (["file={tmp}/broken.jsonl"], "broken.jsonl line 2: the key 'rejected' is missing"),
        (["file={tmp}/empty.jsonl"], "holds no rows"),
        (["index={tmp}/lancedb#passages"], "no table 'passages'"),
        (["file={tmp}/empty.jsonl", "file_test_shar=0.1"], "did you mean 'file_test_share'"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(
    tmp_path: Path, tmp_storage: Path, arguments: list[str], says: str
) -> None:
    (tmp_path / "broken.jsonl").write_text(
        '{"prompt": "a", "chosen": "b", "rejected": "c"}\n{"prompt": "a", "chosen": "b"}\n'
    )
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "good.jsonl").write_text('{"prompt": "a", "chosen": "bbbb", "rejected": "c"}')
    filled = [argument.format(tmp=tmp_path) for argument in arguments]
    code, line, log = warm.ask("build_preferences", *filled, f"storage={tmp_storage}")
    assert (code, line["status"]) == (2, "invalid"), log
    assert says in line["outputs"]["error"] and "Traceback" not in log


def test_evaluating_nothing_is_refused(tmp_storage: Path, tiny_model_dir: Path) -> None:
    code, line, _ = warm.ask("evaluate", f"model={tiny_model_dir}", f"storage={tmp_storage}")
    assert code == 2 and "give questions, preferences or both" in line["outputs"]["error"]
