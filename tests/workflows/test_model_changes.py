"""extend_context and convert_attention by their command lines: what they write, measure and refuse."""

from pathlib import Path

import pytest

from components.tracking.history import read_curves
from components.tracking.lineage import read_lineage
from tests.components.models.heads import with_heads_twice
from tests.workflows import warm


@pytest.fixture
def arguments(mlflow_storage: Path, tiny_model_dir: Path) -> list[str]:
    return [
        f"storage={mlflow_storage}",
        f"model={tiny_model_dir}",
        "source.name=python_docs",
        "source.modules=[json, argparse, logging]",
    ]


def test_a_longer_context_is_written_and_measured(arguments: list[str], mlflow_storage: Path) -> None:
    given = [*arguments, "rope.factor=2", "rope.name=ntk", "windows=1", "keys=2"]
    code, line, log = warm.ask("extend_context", *given)
    assert code == 0, log[-2000:]
    metrics, model = line["metrics"], Path(line["outputs"]["model"])
    assert (metrics["context/old"], metrics["context/new"]) == (1024, 2048)
    assert 0 < metrics["perplexity/extended/2048"] < 1000 and metrics["recall/extended/2048"] == 0  # it knows nothing
    curve = dict(read_curves(mlflow_storage, line["run_id"])["perplexity/extended"])
    assert set(curve) == {512, 1024, 2048} and curve[2048] == metrics["perplexity/extended/2048"]
    page = read_lineage(model)
    assert page is not None and page["facts"]["positions"] == [1024, 2048]
    assert {path.name for path in model.parent.iterdir()} == {"model"}
    code, _, log = warm.ask("extend_context", *given, f"model={model}")
    assert code == 2 and "is stretched already" in log


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["lengths=[64, 512]"], "must rise from 128 or more to the new length, 4096, or less"),
        (["lengths=[512, 9000]"], "must rise from 128"),
        (["windows=1000"], "texts of 4096 are asked for"),
        (["rope.name=yarm"], "rope.name"),
        (["max_increase=0.1", "lengths=[2048]"], "max_increase holds within the old length, 1024"),
    ],
)
def test_what_cannot_be_extended_is_refused(arguments: list[str], change: list[str], says: str) -> None:
    code, _, log = warm.ask("extend_context", *arguments, *change)
    assert code == 2 and says in log and "Traceback" not in log


def test_pooled_heads_are_written_and_measured(arguments: list[str], tiny_model_dir: Path, tmp_path: Path) -> None:
    """Heads that are equal lose nothing, and half of the cache is saved."""
    two = with_heads_twice(tiny_model_dir, tmp_path / "two")
    code, line, log = warm.ask("convert_attention", *arguments, f"model={two}", "kv_heads=1", "texts=2")
    assert code == 0, log[-2000:]
    metrics = line["metrics"]
    assert metrics["kl"] == pytest.approx(0, abs=1e-6) and metrics["top1_agreement"] == 1
    assert metrics["perplexity"] == pytest.approx(metrics["perplexity_original"], rel=1e-5)
    assert metrics["kv_cache/old_bytes_per_token"] == 2 * metrics["kv_cache/new_bytes_per_token"] == 2 * 2 * 32 * 2 * 2
    page = read_lineage(line["outputs"]["model"])
    assert page is not None and page["facts"]["kv_heads"] == [2, 1]


def test_heads_that_do_not_pool_are_refused(arguments: list[str]) -> None:
    code, _, log = warm.ask("convert_attention", *arguments, "kv_heads=1")
    assert code == 2 and "has 1 key-value heads, which pool into no fewer" in log
