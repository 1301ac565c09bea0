"""Three hosts of network namespaces: `ray up` with clusters/local.yaml, trainings on two, failures, `ray down`."""

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clusters import hosts as machines
from tests.clusters.own_cluster import JOB_TIMEOUT_S, STEPS, Cluster, assert_same_model, model_of, of_ray, steps_told

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(1800)]


def test_two_workers_on_two_hosts_train_a_model(undisturbed: Path) -> None:
    assert (undisturbed / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("fail", "mend"),
    [(machines.cut_off, machines.put_back), (machines.stop, machines.start)],
    ids=["cut off from the network", "stopped"],
)
def test_a_host_that_is_gone_is_replaced_and_the_model_is_the_same(
    fail: Callable, mend: Callable, cluster: Cluster, undisturbed: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Its worker's place is taken by the third host, from the last checkpoint on; a host that comes back is taken."""
    name = request.node.callspec.id.replace(" ", "_")
    job = cluster.submit_until(4, cluster.shared / name, tmp_path / "log")
    host = cluster.busy_host()
    fail(host)
    try:
        whole = cluster.shared.glob(f"{name}/train_sft/*/checkpoints/checkpoint-{STEPS}/complete.json")
        assert not any(whole)
        trained = model_of(job, tmp_path / "log")
    finally:
        mend(host)
    _, second = steps_told(tmp_path / "log")
    assert second[0] > 4, second
    assert_same_model(trained, undisturbed)
    cluster.await_all()


def test_a_full_disk_is_said_and_loses_nothing(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    """With room made, the same command goes on from the last whole checkpoint to the same model."""
    storage = cluster.small / "storage"
    job = cluster.submit_until(4, storage, tmp_path / "log")
    filler = cluster.small / "filler"
    fill(filler)
    job.wait(JOB_TIMEOUT_S)
    said = (tmp_path / "log").read_text()
    assert job.returncode != 0 and re.search("No space left on device|disk is full", said), said[-5000:]
    filler.unlink()
    trained = model_of(cluster.submit(storage, tmp_path / "again"), tmp_path / "again")
    (steps,) = steps_told(tmp_path / "again")
    assert steps[0] > 4
    assert_same_model(trained, undisturbed)


def test_a_slow_network_changes_nothing(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    """4 Mbit/s, where a network has 1,000 or more."""
    for host in cluster.hosts:
        machines.slow(host, "4mbit")
    try:
        trained = model_of(cluster.submit(cluster.shared / "slow", tmp_path / "log"), tmp_path / "log")
    finally:
        for host in cluster.hosts:
            machines.slow(host, None)
    assert_same_model(trained, undisturbed)


def test_a_head_that_is_killed_takes_its_job_along_which_then_goes_on(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
) -> None:
    """`ray up` again and the same command: on from the last checkpoint, to the same model."""
    storage = cluster.shared / "head"
    job = cluster.submit_until(4, storage, tmp_path / "log")
    for process in of_ray(cluster.hosts[0]):
        os.kill(process, signal.SIGKILL)
    try:
        job.wait(JOB_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        job.kill()
        raise
    assert job.returncode != 0
    cluster.up()
    trained = model_of(cluster.submit(storage, tmp_path / "again"), tmp_path / "again")
    (steps,) = steps_told(tmp_path / "again")
    assert steps[0] > 4
    assert_same_model(trained, undisturbed)


@pytest.mark.skipif(machines.clock_library() is None, reason="no libfaketime (apt-get install faketime)")
def test_clocks_that_are_an_hour_off_change_nothing(cluster: Cluster, undisturbed: Path, tmp_path: Path) -> None:
    """One host is an hour ahead and one an hour behind the head. They stay so: no test comes after this one."""
    ahead, behind = cluster.hosts[1:]
    cluster.restart({ahead.name: "+1h", behind.name: "-1h"})
    for host, offset in ((ahead, b"FAKETIME=+1h"), (behind, b"FAKETIME=-1h")):
        (raylet,) = (process for process, line in of_ray(host).items() if "raylet/raylet " in line)
        assert offset in Path(f"/proc/{raylet}/environ").read_bytes()
        assert "libfaketime" in Path(f"/proc/{raylet}/maps").read_text()
    trained = model_of(cluster.submit(cluster.shared / "clocks", tmp_path / "log"), tmp_path / "log")
    assert_same_model(trained, undisturbed)


def fill(filler: Path) -> None:
    """Leave no byte on the disk of ``filler``."""
    with filler.open("wb", buffering=0) as written:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while True:
                    written.write(b"\0" * size)
            except OSError:
                continue
