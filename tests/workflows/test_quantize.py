"""Quantize and promote by their command lines, on a tiny model: outputs, refusals, exit codes, lineage."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.workflows import warm


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    folder = tmp_path_factory.mktemp("storage")
    shutil.copy(mlflow_database, folder)
    return folder


@pytest.fixture(scope="module")
def demonstrations(storage: Path) -> str:
    from components.data import store
    from components.data.records import DEMONSTRATION

    rows = [
        {
            "prompt_id": f"{number:02d}",
            "prompt": [{"role": "user", "content": f"Which function returns path {number}?"}],
            "completion": [{"role": "assistant", "content": "It joins path names [1]."}],
            "kind": "what",
            "split": "train" if number < 2 else "test",
            "source": "test",
        }
        for number in range(6)
    ]
    return store.write(str(storage / "lancedb"), "demonstrations", rows, schema=DEMONSTRATION, key="prompt_id")


@pytest.fixture(scope="module")
def quantized(storage: Path, demonstrations: str, tiny_model_dir: Path) -> dict[str, Any]:
    code, line, errors = warm.ask(
        "quantize", f"storage={storage}", f"model={tiny_model_dir}", f"evaluation={demonstrations}", "limit=3"
    )
    assert code == 0, errors
    return line


def test_the_line_names_the_model_and_what_it_lost(quantized: dict[str, Any], tiny_model_dir: Path) -> None:
    folder, metrics = Path(quantized["outputs"]["model"]), quantized["metrics"]
    assert (quantized["workflow"], quantized["status"]) == ("quantize", "done")
    assert metrics["bytes"] == (folder / "model.safetensors").stat().st_size
    assert metrics["bytes_original"] == (tiny_model_dir / "model.safetensors").stat().st_size
    assert metrics["ratio"] == pytest.approx(metrics["bytes"] / metrics["bytes_original"])
    assert 0 <= metrics["kl"] < 0.01
    assert 0.9 < metrics["perplexity"] / metrics["perplexity_original"] < 1.1
    assert {path.name for path in folder.parent.iterdir()} == {"model"}


def test_lineage_reaches_back_to_the_model_and_the_table(
    quantized: dict[str, Any], demonstrations: str, tiny_model_dir: Path
) -> None:
    from components.models.sources import digest
    from components.tracking.lineage import read_lineage

    page = read_lineage(quantized["outputs"]["model"])
    assert page is not None
    assert page["kind"] == "quantized-model"
    assert page["facts"]["base_digest"] == digest(tiny_model_dir)
    assert page["facts"]["digest"] == digest(Path(quantized["outputs"]["model"]))
    assert page["facts"]["method"] == {"name": "w8a8_int8", "smoothing": 0.65, "keep": []}
    assert {"reference": demonstrations} in page["parents"]


def test_a_second_run_is_done_already(
    quantized: dict[str, Any], storage: Path, demonstrations: str, tiny_model_dir: Path
) -> None:
    arguments = (f"storage={storage}", f"model={tiny_model_dir}", f"evaluation={demonstrations}", "limit=3")
    _, again, errors = warm.ask("quantize", *arguments)
    assert again == quantized
    assert "done already" in errors


def test_the_gate_refuses_with_exit_1_and_keeps_the_figures(
    storage: Path, demonstrations: str, tiny_model_dir: Path
) -> None:
    from mlflow import MlflowClient

    arguments = (f"storage={storage}", f"model={tiny_model_dir}", f"evaluation={demonstrations}", "gate.max_kl=0")
    code, line, _ = warm.ask("quantize", *arguments)
    assert (code, line["status"]) == (1, "failed")
    assert "the quantized model is refused" in line["outputs"]["error"]
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    (failed,) = client.search_runs(
        [client.get_experiment_by_name("raylign").experiment_id], "attributes.status = 'FAILED'"
    )
    assert failed.data.metrics["kl"] > 0
    assert not list(storage.glob(f"quantize/{failed.data.tags['raylign.key'][:12]}/model"))


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("method.name=fp8", "choose one of w8a8_int8"),
        ("model=package:nothing", "no model package 'nothing'"),
        ("model=./nowhere", "does not exist"),
        ("evaluation=/nowhere#demonstrations", "/nowhere"),
        ("max_tokens=8", "raise max_tokens"),
        ("limit=0", "'limit' got 0"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_2(
    argument: str, words: str, storage: Path, demonstrations: str, tiny_model_dir: Path
) -> None:
    arguments = (f"storage={storage}", f"model={tiny_model_dir}", f"evaluation={demonstrations}", argument)
    code, line, errors = warm.ask("quantize", *arguments)
    assert (code, line["status"]) == (2, "invalid")
    assert words in line["outputs"]["error"]
    assert "Traceback" not in errors


def _promote(storage: Path, model: str, *arguments: str) -> tuple[int, dict[str, Any], str]:
    return warm.ask("promote", f"storage={storage}", f"model={model}", *arguments)


def test_the_alias_moves_to_what_is_served(quantized: dict[str, Any], storage: Path, tiny_model_dir: Path) -> None:
    from components.tracking.registry import resolve_registered

    code, first, errors = _promote(storage, str(tiny_model_dir))
    assert code == 0, errors
    model = quantized["outputs"]["model"]
    scores = ("candidate={score: {mean: 0.80, low: 0.7}}", "baseline={score: 0.82}")
    code, second, errors = _promote(storage, model, *scores)
    assert code == 0, errors
    assert second["outputs"]["reference"] == "models:/docs-assistant@champion"
    assert int(second["outputs"]["version"]) == int(first["outputs"]["version"]) + 1
    assert second["metrics"]["drop"] == pytest.approx(0.02)
    assert resolve_registered(storage, "models:/docs-assistant@champion") == model


def test_a_worse_model_is_not_promoted(quantized: dict[str, Any], storage: Path, tiny_model_dir: Path) -> None:
    from components.tracking.registry import resolve_registered

    _promote(storage, str(tiny_model_dir), "alias=safe")
    scores = ("candidate={score: 0.78}", "baseline={score: {mean: 0.82}}")
    code, line, _ = _promote(storage, quantized["outputs"]["model"], "alias=safe", *scores)
    assert (code, line["status"]) == (1, "failed")
    assert "not promoted: score is 0.7800, which is 0.0400 below" in line["outputs"]["error"]
    assert resolve_registered(storage, "models:/docs-assistant@safe") == str(tiny_model_dir)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("candidate={kl: 1}", "baseline={score: 1}"), "'candidate' has no figure 'score' (it has kl)"),
        (("baseline={score: 1}",), "give 'candidate' too"),
        (("candidate={score: high}",), "'candidate' has no figure 'score'"),
        (("model=./nowhere",), "does not exist"),
    ],
)
def test_promote_says_what_is_wrong(
    arguments: tuple[str, ...], words: str, storage: Path, tiny_model_dir: Path
) -> None:
    code, line, errors = _promote(storage, str(tiny_model_dir), *arguments)
    assert (code, line["status"]) == (2, "invalid")
    assert words in line["outputs"]["error"]
    assert "Traceback" not in errors
