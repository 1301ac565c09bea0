"""What train_reranker's sections become: a recipe, a start, an output that is there only if it is kept."""

from pathlib import Path

import pytest

from components.config import UserError, parse
from components.training import job, ranking
from components.training.launch import FOLDER
from components.training.ranking import RankingSections, Start


def test_each_kind_has_its_own_pace_and_output() -> None:
    encoder, adapter = RankingSections(), RankingSections(kind="adapter")
    assert (encoder.output, encoder.key) == ("reranker", "rerank")
    assert (adapter.output, adapter.key) == ("query_adapter", "query_adapter")
    assert encoder.recipe(5).optim == encoder.cross_encoder.optim and encoder.recipe(5).seed == 5
    assert adapter.recipe(5).optim == adapter.adapter.optim != encoder.recipe(5).optim
    assert encoder.recipe(5).adapter.name == "none" and encoder.recipe(5).save.every == 50


def test_what_cannot_be_run_is_refused() -> None:
    with pytest.raises(UserError, match=r"deepspeed\.stage=3 divides the weights"):
        parse(RankingSections, {"deepspeed": {"stage": 3}}).recipe(0)
    with pytest.raises(UserError, match="not a multiple"):
        parse(RankingSections, {"scale": {"workers": 3}}).recipe(0)


def test_a_plan_counts_steps() -> None:
    """1400 questions, one pass, 8 a step: 175 steps of two forward passes; twenty passes, 32 a step: 875 steps."""
    plan = ranking.plan(RankingSections(), 0, 1400)
    assert plan["steps"].startswith("at most about 175 of 8 ") and plan["forward passes a step"] == 2
    assert ranking.plan(RankingSections(kind="adapter"), 0, 1400)["steps"].startswith("at most about 875 of 32 ")


def test_an_adapter_starts_from_the_embedder_whatever_the_cross_encoders_model(tmp_path: Path) -> None:
    config = RankingSections(kind="adapter", cross_encoder={"model": "/no/such/model"})
    assert ranking.start_of(config, tmp_path, tmp_path) == Start(tmp_path, None)
    with pytest.raises(UserError, match="no model at /no/such/model"):
        ranking.start_of(config.model_copy(update={"kind": "cross_encoder"}), tmp_path, tmp_path)


def files(folder: Path) -> None:
    for name in (".trained/model.safetensors", f"{FOLDER}/checkpoint-2/x", "rows/train.parquet", "verdict.md"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")


def test_what_is_not_kept_is_removed_and_what_is_kept_gets_its_name(make_run, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    config, start, run = RankingSections(), Start(tmp_path / "model", None), make_run()
    files(run.dir)
    which = {"index": "db#passages@1", "seed": 0, "facts": {"a": 1}}
    assert ranking.settle(config, start, run, kept=False, **which) == {"reranker": None}
    assert [path.name for path in run.dir.iterdir()] == ["verdict.md"]
    assert not job.trained_folder(run.dir).exists()
    files(run.dir)
    kept = ranking.settle(config, start, run, kept=True, **which)
    assert kept == {"reranker": str(run.dir / "reranker")}
    assert sorted(path.name for path in run.dir.iterdir()) == ["reranker", "verdict.md"]
    assert (run.dir / "reranker" / "lineage.json").is_file()
