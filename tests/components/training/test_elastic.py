"""Another number of workers in mid-run: which are allowed, and that it changes nothing but the time."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import ResizeDecision

from components.config import UserError
from components.models.adapters import AdapterConfig
from components.training import checkpoints, scaling_policy
from components.training.deepspeed import DeepSpeedConfig, build
from components.training.launch import share_cores
from components.training.scaling_policy import EvenSizes, SameSize
from components.training.settings import OptimConfig, Recipe, SaveConfig, ScaleConfig, group_sizes
from tests.components.training.preference_cases import curves_in, make_tables, payload_of
from tests.workflows.toy import clusterless

ROOT = Path(__file__).resolve().parents[3]


def sizes(batch: int, micro: int, **scale: int) -> tuple[int, ...]:
    return group_sizes(OptimConfig(batch_size=batch, micro_batch_size=micro), ScaleConfig(**scale))


def test_a_group_may_have_any_size_that_shares_the_batch_out() -> None:
    assert sizes(8, 2, workers=4) == (4,)
    assert sizes(8, 2, workers=4, min_workers=1) == (1, 2, 4)
    assert sizes(24, 1, workers=8, min_workers=3) == (3, 4, 6, 8)


@pytest.mark.parametrize(
    ("batch", "scale", "says"),
    [
        (8, {"workers": 3}, "is not a multiple"),
        (8, {"workers": 2, "min_workers": 4}, "scale.min_workers 4 is more than scale.workers 2"),
        (
            24,
            {"workers": 12, "min_workers": 5},
            "scale.min_workers 5 workers cannot share out evenly 12",
        ),
    ],
)
def test_a_batch_that_cannot_be_shared_out_is_refused(batch: int, scale: dict[str, int], says: str) -> None:
    with pytest.raises(UserError, match=says):
        sizes(batch, 2, **scale)


def test_a_group_that_may_grow_is_not_placed_strictly() -> None:
    with pytest.raises(UserError, match=r"scale\.placement=STRICT_SPREAD may leave no place"):
        group_sizes(OptimConfig(), ScaleConfig(workers=2, min_workers=1, placement="STRICT_SPREAD"))


@pytest.mark.parametrize(("adapter", "decay"), [("none", 0.1), ("loraplus", 0.0)])
def test_settings_that_zero_3_would_mix_up_are_refused(adapter: str, decay: float) -> None:
    def recipe(stage: int) -> Recipe:
        optim, scale = OptimConfig(weight_decay=decay), ScaleConfig(workers=2, min_workers=1)
        return Recipe(AdapterConfig(name=adapter), optim, DeepSpeedConfig(stage=stage), scale, SaveConfig(), seed=0)

    assert recipe(2).scale.min_workers == 1
    with pytest.raises(UserError, match=r"with deepspeed\.stage=3 would give all weights"):
        recipe(3)


@pytest.mark.parametrize(("free", "grows"), [(2.0, True), (1.0, False)])
def test_a_group_is_not_stopped_for_room_that_others_use(
    free: float, grows: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scaling = ScalingConfig(num_workers=(1, 2), resources_per_worker={"CPU": 2}, elastic_resize_monitor_interval_s=0)
    policy = EvenSizes(scaling, (1, 2), 60)
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(policy, "_get_reserved_resources", lambda: {"a": {"CPU": 2.0}, "b": {"CPU": 2.0}})
    monkeypatch.setattr(scaling_policy, "available_resources_per_node", lambda: {"a": {}, "b": {"CPU": free}})
    state = SimpleNamespace(num_workers=1, start_time=0.0)
    decision = policy.make_decision_for_running_worker_group(state, SimpleNamespace())
    assert isinstance(decision, ResizeDecision) is grows


def test_what_was_half_written_is_gone_before_others_write_there(tmp_path: Path) -> None:
    for step in (2, 4):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "shard").write_text("x")
    checkpoints.mark_complete(tmp_path / "checkpoint-2", 2, workers=2)
    checkpoints.drop_incomplete(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


@pytest.mark.parametrize(("room", "size"), [(0, 0), (1, 1), (3, 2), (4, 4), (9, 4)])
def test_room_is_used_as_far_as_the_batch_allows(room: int, size: int) -> None:
    scaling = ScalingConfig(num_workers=(1, 4), resources_per_worker={"CPU": 2})
    policy = EvenSizes(scaling, (1, 2, 4), 60)
    nodes = {"a": {"CPU": 2.0 * room}, "b": {"CPU": 1.0}}  # half a worker's cores are no room
    assert policy._count_possible_workers(nodes) == size


@pytest.mark.parametrize(
    "policy", [EvenSizes(ScalingConfig(num_workers=(1, 2)), (1, 2), 0.2), SameSize(ScalingConfig(num_workers=2), 0.2)]
)
def test_a_group_that_lost_its_place_does_not_wait_for_ever(
    policy: EvenSizes | SameSize, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it has trained it does: other jobs may have their turn first."""
    monkeypatch.setattr(policy, "_maybe_send_resource_request", lambda: None)
    monkeypatch.setattr(policy, "_get_reserved_resources", dict, raising=False)
    for _ in range(2):
        policy.make_decision_for_non_running_worker_group()
        time.sleep(0.3)
    state = SimpleNamespace(num_workers=2, start_time=time.monotonic())
    for _ in range(2):  # lost, and there again in time: the clock begins anew
        policy.make_decision_for_running_worker_group(state, SimpleNamespace())
        policy.make_decision_for_non_running_worker_group()
        time.sleep(0.15)
        policy.make_decision_for_non_running_worker_group()
    time.sleep(0.3)
    with pytest.raises(TimeoutError, match=r"no room for \d workers for 0 s, since some were lost.*scale\.wait_s"):
        policy.make_decision_for_non_running_worker_group()


def test_a_job_starts_where_the_fewest_fit_with_the_share_of_all() -> None:
    assert share_cores([{"CPU": 4}], ScaleConfig(workers=2, min_workers=1)) == 2
    assert share_cores([{"CPU": 2, "GPU": 1}], ScaleConfig(workers=4, min_workers=1, gpu=True)) == 1
    with pytest.raises(UserError, match="2 workers of 1 cores need more than the cluster's 1 cores on 1 hosts"):
        share_cores([{"CPU": 1}], ScaleConfig(workers=4, min_workers=2))


def payloads(tiny_model_dir: Path, folder: Path, steps: int, bf16: bool) -> dict[str, dict]:
    """A preference training of four rows a step for each stage of ZeRO, meant for two workers."""
    tables, made = make_tables(tiny_model_dir), {}
    for stage in range(4):
        own = folder / f"stage {stage}"
        payload, _ = payload_of("sigmoid", tables, tiny_model_dir, own, micro=1, passes=2, steps=steps, shift=3.0)
        payload["arguments"]["deepspeed"] = build(DeepSpeedConfig(stage=stage), bf16=bf16, max_grad_norm=1e9)
        payload["arguments"]["bf16"], payload["dtype"] = bf16, "bfloat16" if bf16 else "float32"
        made[own.name] = payload | {"checkpoints": payload["arguments"]["output_dir"], "workers": 2}
    return made


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("grows", "bf16"),
    [(False, False), *(pytest.param(*ways, marks=pytest.mark.exhaustive) for ways in [(True, False), (False, True)])],
)
def test_every_stage_goes_on_with_another_number(grows: bool, bf16: bool, tiny_model_dir: Path, tmp_path: Path) -> None:
    """Two train to the end; from step 2 on again one trains for two steps, and then two do: the same losses."""
    steps = 6 if grows else 4
    expected = curves_in(2, payloads(tiny_model_dir, tmp_path, steps, bf16), tmp_path / "two")
    for name in expected:
        for step in range(4, steps + 1, 2):
            shutil.rmtree(tmp_path / name / "checkpoints" / f"checkpoint-{step}")
    found = curves_in(1, payloads(tiny_model_dir, tmp_path, 4, bf16), tmp_path / "one")
    for name in expected:
        last = checkpoints.latest(tmp_path / name / "checkpoints")
        assert last is not None and last.name == "checkpoint-4" and checkpoints.workers_of(last) == 1
    if grows:
        more = curves_in(2, payloads(tiny_model_dir, tmp_path, steps, bf16), tmp_path / "two again")
        found = {name: losses + more[name] for name, losses in found.items()}
    for name, losses in expected.items():
        assert len(losses) == steps
        assert found[name] == pytest.approx(losses[2:], rel=2e-2 if bf16 else 1e-3, abs=2e-4), name


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_lost_node_shrinks_a_job_and_a_new_one_grows_it(tiny_model_dir: Path, tmp_path: Path) -> None:
    """Two workers lose a node at step 4, one goes on from step 2; with a new node two go on from step 6."""
    command = [sys.executable, "-m", "tests.components.training.elastic_cluster", str(tiny_model_dir), str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=clusterless(), capture_output=True, text=True, timeout=800)
    assert done.returncode == 0, done.stderr[-3000:]
    alone, elastic = (
        [json.loads(line) for line in (tmp_path / name).read_text().splitlines()]
        for name in ("alone.jsonl", "elastic.jsonl")
    )
    seen = [(line["step"], line["workers"]) for line in elastic]
    assert seen == [(step, 2) for step in (1, 2, 3, 4)] + [(step, 1) for step in range(3, 9)] + [
        (step, 2) for step in range(7, 13)
    ]
    expected = {line["step"]: line["loss"] for line in alone}
    for line in elastic:
        assert line["loss"] == pytest.approx(expected[line["step"]], rel=1e-3, abs=2e-4), line
