"""Runs in a real MLflow store: the ledger, resuming, curves, datasets."""

import uuid
from pathlib import Path

import pytest

from components.tracking.history import describe_run, read_curves
from components.tracking.run import Result, find_result, finish_run, log_params, open_run


def _open(storage: Path, key: str, **options):
    return open_run(storage, "tests", "toy", key, {"raylign.commit": "c"}, **options)


def test_a_finished_run_is_found_by_its_key_while_its_outputs_exist(mlflow_storage: Path, tmp_path: Path) -> None:
    key, output = uuid.uuid4().hex, tmp_path / "model"
    output.mkdir()
    with _open(mlflow_storage, key) as run:
        assert find_result(mlflow_storage, "tests", "toy", key) is None
        finish_run(run, Result({"model": str(output), "table": f"{tmp_path}#t@3"}, {"loss": 0.5}), 2.0)
    found = find_result(mlflow_storage, "tests", "toy", key)
    assert found is not None
    assert (found.run_id, found.result.metrics, found.seconds) == (run.id, {"loss": 0.5}, 2.0)
    assert describe_run(mlflow_storage, run.id)["status"] == "done"
    output.rmdir()
    assert find_result(mlflow_storage, "tests", "toy", key) is None


def test_a_failed_run_is_gone_on_with(mlflow_storage: Path) -> None:
    key = uuid.uuid4().hex
    with pytest.raises(RuntimeError, match="boom"), _open(mlflow_storage, key) as first:
        (first.dir / "checkpoint").write_text("state")
        raise RuntimeError("boom")
    assert describe_run(mlflow_storage, first.id)["status"] == "failed"
    with _open(mlflow_storage, key) as second:
        assert second.id == first.id
        assert (second.dir / "checkpoint").read_text() == "state"


def test_a_store_that_fails_as_well_does_not_hide_what_failed_first(mlflow_storage: Path, monkeypatch, caplog) -> None:
    from mlflow import MlflowClient

    def full(*_, **__):
        raise OSError("disk is full")

    with pytest.raises(RuntimeError, match="boom"), _open(mlflow_storage, uuid.uuid4().hex) as run:
        monkeypatch.setattr(MlflowClient, "set_tag", full)
        raise RuntimeError("boom")
    assert f"did not take that run {run.id} failed" in caplog.text and "disk is full" in caplog.text


def test_a_finished_run_is_reopened_only_when_asked(mlflow_storage: Path) -> None:
    key = uuid.uuid4().hex
    with _open(mlflow_storage, key) as first:
        finish_run(first, Result({}), 0.0)
    with _open(mlflow_storage, key, reopen=True) as second:
        assert second.id == first.id
        finish_run(second, Result({}), 0.0)
    with _open(mlflow_storage, key) as third:
        assert third.id != first.id


def test_a_child_names_its_parent(mlflow_storage: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with _open(mlflow_storage, uuid.uuid4().hex) as parent:
        monkeypatch.setenv("RAYLIGN_PARENT_RUN", parent.id)
        with _open(mlflow_storage, uuid.uuid4().hex) as child:
            tags = child._client.get_run(child.id).data.tags
    assert tags["mlflow.parentRunId"] == parent.id
    assert tags["raylign.commit"] == "c"


def test_orphans_are_adopted_and_others_stay_with_their_parent(mlflow_storage: Path) -> None:
    from mlflow import MlflowClient

    with _open(mlflow_storage, uuid.uuid4().hex) as first, _open(mlflow_storage, uuid.uuid4().hex) as second:
        with _open(mlflow_storage, uuid.uuid4().hex) as lone:
            pass
        with _open(mlflow_storage, uuid.uuid4().hex, parent=first.id) as child:
            pass
        second.adopt([lone.id, child.id], orphans=True)
        client = MlflowClient(first.tracking_uri)
        parents = [client.get_run(run.id).data.tags["mlflow.parentRunId"] for run in (lone, child)]
        assert parents == [second.id, first.id]
        second.adopt([child.id])
        assert client.get_run(child.id).data.tags["mlflow.parentRunId"] == second.id


def test_curves_come_back_in_order_and_once(make_run, mlflow_storage: Path) -> None:
    run = make_run()
    for step in (3, 1, 2, 2):  # a resumed run logs a step again
        run.handle().log_metrics({"train/loss": step / 10}, step)
    run.log_metrics({"train/seconds": 1.0})
    assert read_curves(mlflow_storage, run.id) == {"train/loss": [(1, 0.1), (2, 0.2), (3, 0.3)]}


def test_a_dataset_carries_its_table_version(make_run) -> None:
    run = make_run()
    run.log_dataset("preferences", "/db#preferences@7", "training")
    inputs = run._client.get_run(run.id).inputs.dataset_inputs
    assert [(item.dataset.name, item.dataset.digest) for item in inputs] == [("preferences", "v7")]
    assert "/db#preferences@7" in inputs[0].dataset.source


def test_the_end_of_a_curve_does_not_stand_at_its_beginning_too(mlflow_storage: Path) -> None:
    key = uuid.uuid4().hex
    with _open(mlflow_storage, key) as run:
        for step, value in ((1, 0.3), (2, 0.2)):
            run.log_metrics({"objective/kl": value}, step)
        run.log_metrics({"seconds": 3.0})
        finish_run(run, Result({}, {"objective/kl": 0.2, "seconds": 4.0, "score": 0.5}), 0.0)
    assert read_curves(mlflow_storage, run.id)["objective/kl"] == [(1, 0.3), (2, 0.2)]
    found = find_result(mlflow_storage, "tests", "toy", key)
    assert found is not None and found.result.metrics == {"objective/kl": 0.2, "seconds": 4.0, "score": 0.5}


def test_a_result_of_any_length_is_kept(mlflow_storage: Path) -> None:
    """9,785 characters were what twelve compared strategies gave; a tag takes 8,000."""
    key, figures = uuid.uuid4().hex, {f"strategy-{number}/accuracy": number / 1000 for number in range(700)}
    with _open(mlflow_storage, key) as run:
        finish_run(run, Result({"long": "x" * 20_000}, figures), 0.0)
    found = find_result(mlflow_storage, "tests", "test", key)
    assert found is not None and found.result == Result({"long": "x" * 20_000}, figures)
    with _open(mlflow_storage, key, reopen=True) as again:
        finish_run(again, Result({"short": 1}), 0.0)
    found = find_result(mlflow_storage, "tests", "test", key)
    assert found is not None and found.result == Result({"short": 1})


def test_what_a_person_called_something_may_have_any_character(make_run) -> None:
    """MLflow refuses others than letters, digits and /_-. : in a name."""
    run = make_run()
    log_params(run, {"figures.Speed (tokens/s), by model": 1, "figures.Speed [tokens/s], by model": 2})
    run.log_metrics({"k=5/ndcg": 0.5, "größe": 1.0})
    data = run._client.get_run(run.id).data
    assert data.params == {
        "figures.Speed _tokens/s__ by model": "1",
        "figures.Speed _tokens/s__ by model_": "2",
    }
    assert data.metrics == {"k_5/ndcg": 0.5, "größe": 1.0}
