"""The life of an adapter by its command lines: trained on a 4-bit base, merged both ways, registered, refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.workflows import warm
from tests.workflows.toy import write_tables


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "artifacts"
    folder.mkdir()
    shutil.copy(mlflow_database, folder)
    write_tables(folder, train=12)
    return folder


@pytest.fixture(scope="module")
def qlora(storage: Path, cluster: str, tiny_model_dir: Path) -> dict[str, Any]:
    small = ("optim.batch_size=4", "optim.micro_batch_size=4", "optim.learning_rate=5e-3", "eval_rows=0")
    place = (f"storage={storage}", f"model={tiny_model_dir}", f"demonstrations={storage}/lancedb#demonstrations")
    code, line, errors = warm.ask("train_sft", *place, *small, "adapter.name=qlora", "adapter.rank=4", cluster=cluster)
    assert code == 0, errors[-3000:]
    return line


def test_the_run_says_what_was_saved(qlora: dict[str, Any], tiny_model_dir: Path) -> None:
    """Rank 4 on 64+64, 64+32, 64+32, 64+64 and thrice 64+128 rows and columns, in two blocks."""
    assert qlora["metrics"]["cost/trained_parameters"] == 2 * 4 * (128 + 96 + 96 + 128 + 3 * 192)
    assert qlora["metrics"]["cost/planned_saved_bytes"] > 0 and qlora["metrics"]["cost/step_seconds"] > 0
    page = json.loads((Path(qlora["outputs"]["adapter"]) / "base.json").read_text())
    assert (page["base"], page["kind"], page["quantization"]) == (str(tiny_model_dir), "qlora", "nf4")


def test_both_merges_are_measured_and_the_chosen_one_is_written(qlora: dict[str, Any], storage: Path) -> None:
    place = (f"storage={storage}", f"adapter={qlora['outputs']['adapter']}", f"base={qlora['outputs']['base']}")
    found = {}
    for onto in ("original", "dequantized"):
        code, line, errors = warm.ask("merge_adapter", *place, f"onto={onto}", "dtype=float32")
        assert code == 0, errors[-3000:]
        found[onto] = line
        assert set(line["metrics"]) == {
            "merge/parity",
            "merge/learned_kl",
            "merge/rounded_kl",
            "merge/original_kl",
            "merge/dequantized_kl",
        }
    assert found["original"]["metrics"]["merge/original_kl"] > 10 * abs(
        found["original"]["metrics"]["merge/dequantized_kl"]
    )
    assert found["original"]["outputs"]["model"] != found["dequantized"]["outputs"]["model"]
    code, line, _ = warm.ask("merge_adapter", *place, "onto=original", "max_kl=1e-9")
    assert code == 1 and "the adapter is not merged; onto=dequantized gives" in line["outputs"]["error"]


def test_it_is_registered_with_its_bases_digest_and_on_no_other(
    qlora: dict[str, Any], storage: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    from components.models.folder import digest
    from components.tracking.registry import resolve_registered
    from components.tracking.run import client_of, tracking_uri

    place = (f"storage={storage}", f"adapter={qlora['outputs']['adapter']}", f"model={tiny_model_dir}")
    code, line, errors = warm.ask("promote", *place, "name=cites", "alias=best")
    assert code == 0, errors
    assert (
        line["outputs"]["adapter"] == qlora["outputs"]["adapter"] == resolve_registered(storage, "models:/cites@best")
    )
    tags = client_of(tracking_uri(storage)).get_model_version_by_alias("cites", "best").tags
    assert tags["base_digest"] == digest(tiny_model_dir) and tags["base"] == str(tiny_model_dir)
    assert (tags["adapter"], tags["base_quantization"]) == ("qlora", "nf4") and len(tags["lineage_id"]) == 64
    code, line, _ = warm.ask("promote", *place)
    assert code == 2 and "give the adapter a name of its own" in line["outputs"]["error"]
    other = tmp_path / "other"
    other.mkdir()
    for path in tiny_model_dir.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    (other / "special.json").write_text("{}")  # another file, another model
    code, line, _ = warm.ask("promote", f"storage={storage}", place[1], f"model={other}", "name=cites")
    assert code == 2
    assert "was trained on a model with digest" in line["outputs"]["error"] and str(other) in line["outputs"]["error"]


@pytest.mark.parametrize(
    ("workflow", "arguments", "says"),
    [
        ("train_dpo", ("adapter.name=longlora", "max_tokens=4096"), "no log-ratio would start at 0"),
        ("train_reward", ("adapter.name=adalora", "deepspeed.stage=3"), "use deepspeed.stage 0-2"),
        ("train_ppo", ("adapter.name=adalora", "prompts={table}", "reward.judge=1"), "is not for PPO"),
    ],
)
@pytest.mark.parametrize("plan", [True, False])
def test_what_cannot_be_done_is_refused_before_anything_starts(
    storage: Path, tiny_model_dir: Path, workflow: str, arguments: tuple[str, ...], says: str, plan: bool
) -> None:
    table = f"{storage}/lancedb#preferences"
    given = [argument.format(table=table) for argument in arguments]
    if workflow != "train_ppo":
        given.append(f"preferences={table}")
    code, line, errors = warm.ask(
        workflow, f"storage={storage}", f"model={tiny_model_dir}", *given, *(["--plan"] if plan else [])
    )
    assert code == 2 and says in line["outputs"]["error"] and "Traceback" not in errors
