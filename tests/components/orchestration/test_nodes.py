"""What nodes must have before work starts: by arithmetic, and on a real cluster of two nodes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from components.config import UserError
from components.orchestration.nodes import as_bundles, check_scratch, lacking, on_demand_bundles
from components.training.launch import share_cores
from components.training.settings import ScaleConfig

ROOT = Path(__file__).resolve().parents[3]
# In a process of its own, as this one has the session's cluster: two nodes, of which the second may be blind.
_TWO_NODES = """
import json, os, sys, threading, time
import ray
from ray.cluster_utils import Cluster
from components.config import RayConfig, UserError
from components.orchestration import nodes
from components.orchestration.cluster import ray_session
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
second = cluster.add_node(num_cpus=1)
said = {}
def attempt(name, function, *arguments):
    try:
        said[name] = function(*arguments)
    except UserError as error:
        said[name] = str(error)
def session(wait_for):
    with ray_session(RayConfig(address=cluster.address, wait_for=wait_for), "s3://b/x"):
        pass

os.environ.pop("RAYLIGN_SCRATCH", None)
attempt("no scratch", session, {"GPU": 1})
ray.init(address=cluster.address, log_to_driver=False)
attempt("shared", nodes.check_shared, sys.argv[1])
nodes.read_text = lambda path: ""
attempt("not shared", nodes.check_shared, sys.argv[1])
def refuse(path):
    raise PermissionError(path)

nodes.read_text = refuse
attempt("not allowed", nodes.check_shared, sys.argv[1])
nodes._PROBE_TIMEOUT_S = 4.0
nodes.read_text = lambda path: __import__("time").sleep(9) or ""
attempt("silent", nodes.check_shared, sys.argv[1])
attempt("there", nodes.await_resources, {"CPU": 2}, 0.0)
attempt("missing", nodes.await_resources, {"CPU": 2, "GPU": 4}, 3.0)

def pending():
    groups = ray.util.placement_group_table().values()
    return sorted((list(group["bundles"].values()) for group in groups if group["state"] != "REMOVED"), key=len)

long = threading.Thread(target=attempt, args=("long", nodes.await_resources, {"CPU": 3, "GPU": 1}, 14.0))
short = threading.Thread(target=attempt, args=("short", nodes.await_resources, {"other": 5}, 3.0))
long.start()
short.start()
said["seen"] = []
while long.is_alive():
    said["seen"].append(pending())
    time.sleep(0.3)
deadline = time.monotonic() + 20
while pending() and time.monotonic() < deadline:  # a group is removed in the background
    time.sleep(0.3)
said["left"] = pending()
nodes._PROBE_TIMEOUT_S = 60.0
nodes.read_text = lambda path: __import__("time").sleep(300) or ""
leaving = threading.Timer(4.0, cluster.remove_node, [second])
leaving.start()
attempt("lost", nodes.check_shared, sys.argv[1])
leaving.join()  # else the cluster may remove the same node at the same time, and leave its address to all that follows
ray.shutdown()
cluster.shutdown()
print(json.dumps(said))
"""


def test_what_lacks_is_told_and_asked_for_one_by_one() -> None:
    assert lacking({"CPU": 4, "GPU": 2}, {"CPU": 4.0, "GPU": 1.0}) == "1 of 2 GPU"
    assert lacking({"CPU": 4}, {"CPU": 8.0}) == ""
    assert as_bundles({"GPU": 2, "CPU": 1.5}) == [{"GPU": 1.0}, {"GPU": 1.0}, {"CPU": 1.0}, {"CPU": 1.0}]
    assert on_demand_bundles({"GPU": 3, "CPU": 9}, {"GPU": 1.0}) == [{"GPU": 1.0, "on_demand": 1.0}] * 2
    assert on_demand_bundles({"CPU": 9}, {}) == on_demand_bundles({"GPU": 1}, {"GPU": 4.0}) == []


def test_nodes_to_come_need_a_scratch_folder_for_an_object_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAYLIGN_SCRATCH", raising=False)
    check_scratch("s3://b/x", {"GPU": 1}, {"GPU": 1.0})
    check_scratch("/shared", {"GPU": 1}, {})
    with pytest.raises(UserError, match=r"and more are to come.*set RAYLIGN_SCRATCH to it"):
        check_scratch("s3://b/x", {"GPU": 1}, {})
    monkeypatch.setenv("RAYLIGN_SCRATCH", "/mnt/scratch")
    check_scratch("s3://b/x", {"GPU": 1}, {})


def test_two_real_nodes(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _TWO_NODES, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["shared"] is None and list(tmp_path.iterdir()) == [], "the mark is gone again"
    assert f"storage={tmp_path} is not shared: " in said["not shared"]
    assert f"storage={tmp_path} is not shared: " in said["not allowed"], "a traceback before"
    assert f"did not answer within 4 s when asked to read in {tmp_path}: see whether" in said["silent"]
    assert said["lost"] is None, "a node that is gone is no longer one of the cluster"
    assert said["there"] is None
    assert said["no scratch"].startswith("storage=s3://b/x needs a folder that all hosts of the cluster share")
    assert said["missing"].startswith("the cluster has 0 of 4 GPU after 3 s: lower ray.wait_for")
    plain, other = [{"CPU": 1.0}] * 3 + [{"GPU": 1.0}], [{"other": 1.0}] * 5
    seen = [groups for at, groups in enumerate(said["seen"]) if groups != said["seen"][at - 1]]
    assert [plain, other] in seen, "requests of two jobs add up"
    assert [plain] in seen[seen.index([plain, other]) :], "and one that ends leaves the other"
    assert [[{"GPU": 1.0, "on_demand": 1.0}], plain] in seen, "after half of the time"
    assert said["left"] == []
    assert said["long"].startswith("the cluster has 2 of 3 CPU, 0 of 1 GPU after 14 s")


@pytest.mark.parametrize(
    ("nodes", "scale", "cores"),
    [
        ([{"CPU": 8}], {"workers": 2}, 4),
        ([{"CPU": 8}], {"workers": 3}, 2),
        ([{"CPU": 2}], {"workers": 2, "cpus_per_worker": 1}, 1),
        ([{"CPU": 0}, {"CPU": 8}, {"CPU": 8}], {"workers": 2}, 8),
        ([{"CPU": 3}, {"CPU": 8}], {"workers": 2}, 4),  # 11 / 2 = 5 would fit the second node only, and once
        ([{"CPU": 64}, {"CPU": 8, "GPU": 4}], {"workers": 4, "gpu": True}, 2),  # the data pool's cores are elsewhere
        ([{"CPU": 8, "GPU": 1}, {"CPU": 8, "GPU": 1}], {"workers": 2, "gpu": True}, 8),
        ([{"CPU": 64, "GPU": 8}], {"workers": 1, "gpu": True}, 8),  # seven more such jobs fit beside it
    ],
)
def test_a_worker_gets_cores_of_one_node(nodes: list[dict], scale: dict, cores: int) -> None:
    assert share_cores(nodes, ScaleConfig(**scale)) == cores


def test_jobs_beside_each_other_share_what_there_is() -> None:
    assert share_cores([{"CPU": 8}], ScaleConfig(workers=2), at_once=2) == 2
    assert share_cores([{"CPU": 2}], ScaleConfig(), at_once=3) == 1  # two run, the third waits
    assert share_cores([{"CPU": 8}], ScaleConfig(cpus_per_worker=5), at_once=2) == 5  # who says so waits, too
    assert share_cores([{"CPU": 64, "GPU": 8}], ScaleConfig(gpu=True), at_once=2) == 8
    assert share_cores([{"CPU": 16, "GPU": 1}], ScaleConfig(gpu=True), at_once=4) == 16  # one has the GPU


@pytest.mark.parametrize(
    ("nodes", "scale", "said"),
    [
        ([{"CPU": 1}], {"workers": 2}, "2 workers of 1 cores need more than the cluster's 1 cores on 1 hosts"),
        ([{"CPU": 3}, {"CPU": 3}], {"workers": 2, "cpus_per_worker": 4}, "2 workers of 4 cores"),
        ([{"CPU": 64}], {"workers": 2, "gpu": True}, "the cluster has 0: set scale.gpu=false or fewer workers"),
        ([{"CPU": 1, "GPU": 4}], {"workers": 2, "gpu": True}, "2 workers of 1 cores"),
    ],
)
def test_what_lies_on_no_node_is_refused(nodes: list[dict], scale: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        share_cores(nodes, ScaleConfig(**scale))
