"""Steps on registered models: about one version, under one key, for the pipeline and for the job that does them."""

import uuid
from pathlib import Path

import pytest

from components.config import RayConfig, UserError
from components.orchestration import schedule
from components.orchestration.entry import execute
from components.orchestration.graph import StepConfig
from components.orchestration.ledger import find_done, step_key
from components.orchestration.registered import key_of, looked_up, pinned
from components.orchestration.steps import Setting
from components.tracking.registry import register_model, registered_source
from components.tracking.run import Result
from workflows import promote
from workflows.evaluate import Evaluate
from workflows.pipeline import schema_of


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    made = [tmp_path / "one", tmp_path / "two"]
    for folder in made:
        folder.mkdir()
        (folder / "config.json").write_text(f'"{folder.name}"')
    return made


def test_an_alias_is_the_version_that_it_has_and_the_key_knows_its_files(make_run, mlflow_storage, folders) -> None:
    run, name = make_run(), f"model-{uuid.uuid4().hex[:8]}"
    register_model(run, name, folders[0], "champion", {})
    asked = Evaluate(model=f"models:/{name}@champion", storage=str(mlflow_storage))
    first = pinned(asked)
    assert first.model == f"models:/{name}/1@champion" and pinned(first) == first
    assert looked_up(first).model == str(folders[0])
    plain = asked.model_copy(update={"model": str(folders[0])})
    assert key_of("evaluate", asked) == key_of("evaluate", first) == step_key("evaluate", plain)
    register_model(run, name, folders[1], "champion", {})
    assert looked_up(first).model == str(folders[0]) and looked_up(pinned(asked)).model == str(folders[1])
    before = key_of("evaluate", first)
    assert before != key_of("evaluate", asked)
    (folders[0] / "config.json").write_text("other bytes in the same folder")
    assert key_of("evaluate", first) != before
    with pytest.raises(UserError, match=f"models:/{name}@nobody"):
        pinned(asked.model_copy(update={"model": f"models:/{name}@nobody"}))


def test_what_mlflow_keeps_is_one_step_however_often_it_is_fetched(make_run, mlflow_storage, folders) -> None:
    run = make_run()
    run.log_artifact(folders[0])
    asked = Evaluate(model=f"runs:/{run.id}/one", storage=str(mlflow_storage))
    assert pinned(asked) == asked and key_of("evaluate", asked) == step_key("evaluate", asked)
    assert (Path(str(looked_up(asked).model)) / "config.json").read_text() == '"one"'


def test_a_pipeline_finds_what_the_job_of_a_step_has_done(make_run, mlflow_storage, folders) -> None:
    run, name = make_run(), f"model-{uuid.uuid4().hex[:8]}"
    register_model(run, name, folders[0], "champion", {})
    shared = {"storage": str(mlflow_storage), "experiment": "tests"}
    setting = Setting(mlflow_storage, mlflow_storage, "parent", shared, 0, RayConfig(), 1, schema_of)
    step = StepConfig(workflow="evaluate", config={"model": f"models:/{name}@champion"})
    config = schedule._configure("it", step, {}, setting)
    key = key_of("evaluate", config)
    assert find_done("evaluate", config, key) is None
    seen = []

    def main(given, _):
        seen.append(given.model)
        return Result({"name": "it"}, {})

    execute("evaluate", config, main)
    found = find_done("evaluate", config, key)
    assert found is not None and found.result.outputs == {"name": "it"} and seen == [str(folders[0])]
    register_model(run, name, folders[1], "champion", {})  # the alias moves: another step
    assert key_of("evaluate", schedule._configure("it", step, {}, setting)) != key


def test_a_promotion_that_another_has_undone_is_done_again(mlflow_storage, folders) -> None:
    """Promoted, another promoted, the first one again: a rollback, though the ledger has it as done."""
    name = f"model-{uuid.uuid4().hex[:8]}"
    for folder in folders:
        (folder / "model.safetensors").write_text(folder.name)
        (folder / "tokenizer.json").write_text("{}")

    def promoted(folder: Path) -> str:
        given = promote.Promote(model=str(folder), name=name, storage=str(mlflow_storage), experiment="tests")
        return execute("promote", given, promote.main)["run_id"]

    first = promoted(folders[0])
    assert promoted(folders[0]) == first
    assert promoted(folders[1]) != first
    assert promoted(folders[0]) != first
    assert registered_source(mlflow_storage, f"models:/{name}@champion") == str(folders[0])
