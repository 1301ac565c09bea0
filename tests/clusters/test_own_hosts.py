"""Three hosts of network namespaces: `ray up` with clusters/local.yaml, trainings, failures, `ray down`."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.clusters import hosts as machines
from tests.workflows.toy import write_tables

ROOT = Path(__file__).resolve().parents[2]
_UP_TIMEOUT_S, _JOB_TIMEOUT_S = 300, 600
_STEPS = 20  # 5 epochs of 16 rows, 4 a step
_DOWN_TIMEOUT_S = 150  # a worker's processes end when the head has not answered for a minute
pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def three() -> Iterator[tuple[list[machines.Host], Path, Path]]:
    """Three hosts, their key, and a folder that all of them see."""
    if reason := machines.what_is_missing():
        pytest.skip(reason)
    with (
        tempfile.TemporaryDirectory(prefix="hosts-", dir="/var/tmp") as folder,
        machines.hosts(Path(folder), 3) as made,
    ):
        shared = Path(folder) / "shared"
        shared.mkdir()
        yield *made, shared


def _own_file(three: tuple[list[machines.Host], Path, Path], folder: Path) -> Path:
    """Return clusters/local.yaml with these hosts in it, and this Python in place of one that is installed there."""
    found, key, _ = three
    config = yaml.safe_load((ROOT / "clusters" / "local.yaml").read_text())
    config["cluster_name"] = f"raylign-test-{os.getpid()}"
    config["provider"] |= {"head_ip": found[0].address, "worker_ips": [host.address for host in found[1:]]}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
    bin_folder = Path(sys.executable).parent
    config["file_mounts"] = {name: path for name, path in config["file_mounts"].items() if name == "~/.ray/auth_token"}
    config["setup_commands"] = [
        f"grep -q {bin_folder} ~/.bashrc || echo 'export PATH={bin_folder}:$PATH RAY_AUTH_MODE=token' >> ~/.bashrc"
    ]
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        last = config[commands][-1]
        config[commands][-1] = f"{last} --num-cpus=1 --object-store-memory=200000000"
    page = folder / "hosts.yaml"
    page.write_text(yaml.safe_dump(config))
    return page


def _ray(*words: str, timeout_s: float, env: dict[str, str]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ray.scripts.scripts", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, env=env)


def _await_cpus(count: int, page: Path, env: dict[str, str]) -> None:
    """Wait for every host: `ray up` returns when the head is up, which then brings the workers up."""
    deadline = time.monotonic() + _UP_TIMEOUT_S
    while True:
        status = _ray("exec", "--no-config-cache", str(page), "ray status", timeout_s=120, env=env)
        if status.returncode == 0 and f"/{count}.0 CPU" in status.stdout:
            return
        assert time.monotonic() < deadline, status.stdout[-2000:] + status.stderr[-2000:]
        time.sleep(5)


@dataclass(frozen=True)
class Cluster:
    """The three hosts as one cluster, and what a job on it needs."""

    hosts: list[machines.Host]
    shared: Path
    model: Path
    env: dict[str, str]

    def submit(self, storage: Path, log: Path) -> subprocess.Popen:
        """Submit a training of two workers on two hosts, from the head: the dashboard listens on its loopback only."""
        training = (
            f"python -m workflows.train_sft model={self.model} demonstrations={self.shared}/lancedb#demonstrations "
            f"storage={storage} adapter.name=none deepspeed.stage=2 scale.workers=2 scale.cpus_per_worker=1 "
            "scale.placement=STRICT_SPREAD optim.batch_size=4 optim.micro_batch_size=2 optim.epochs=5 "
            "optim.dtype=float32 save.every=2 ray.wait_for.CPU=2"
        )
        inside = ["ip", "netns", "exec", self.hosts[0].name, sys.executable, "-m", "ray.scripts.scripts"]
        submit = [*inside, "job", "submit", "--address", "http://127.0.0.1:8265", "--working-dir", str(ROOT), "--"]
        with log.open("w") as written:
            return subprocess.Popen(
                [*submit, *training.split()], cwd=ROOT, stdout=written, stderr=subprocess.STDOUT, env=self.env
            )


@pytest.fixture(scope="module")
def cluster(three, tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Iterator[Cluster]:
    """What `ray up` makes of clusters/local.yaml; `ray down` leaves nothing of it."""
    found, _, shared = three
    folder = tmp_path_factory.mktemp("cluster")
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    env = {**os.environ, "HOME": str(folder), "RAY_AUTH_MODE": "token"}
    page = _own_file(three, folder)
    model = shutil.copytree(tiny_model_dir, shared / "model")
    write_tables(shared, train=16, test=4)
    up = _ray("up", "--yes", "--no-config-cache", str(page), timeout_s=_UP_TIMEOUT_S, env=env)
    assert up.returncode == 0, up.stdout[-3000:] + up.stderr[-3000:]
    try:
        _await_cpus(3, page, env)
        yield Cluster(found, shared, model, env)
    finally:
        down = _ray("down", "--yes", str(page), timeout_s=_UP_TIMEOUT_S, env=env)
    assert down.returncode == 0, down.stdout[-3000:] + down.stderr[-2000:]
    deadline = time.monotonic() + _DOWN_TIMEOUT_S
    while left := [line for host in found for line in _of_ray(host)]:
        assert time.monotonic() < deadline, f"ray down left {left}"
        time.sleep(2)


def _model_of(job: subprocess.Popen, log: Path) -> Path:
    """Wait for the job's end and return the folder of the model that it trained."""
    job.wait(_JOB_TIMEOUT_S)
    lines = [line for line in log.read_text().splitlines() if line.startswith('{"workflow"')]
    assert job.returncode == 0 and lines, log.read_text()[-5000:]
    done = json.loads(lines[-1])
    assert done["status"] == "done" and done["metrics"]["steps"] == _STEPS
    return Path(done["outputs"]["model"])


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    log = tmp_path_factory.mktemp("undisturbed") / "log"
    return _model_of(cluster.submit(cluster.shared / "undisturbed", log), log)


@pytest.mark.timeout(1800)
def test_two_workers_on_two_hosts_train_a_model(undisturbed: Path) -> None:
    assert (undisturbed / "model.safetensors").is_file()


@pytest.mark.timeout(1800)
def test_a_host_that_is_cut_off_is_replaced_and_the_model_is_the_same(
    cluster: Cluster, undisturbed: Path, tmp_path: Path
) -> None:
    """Its worker's place is taken by the third host, from the last checkpoint on."""
    import torch
    from safetensors.torch import load_file

    storage, log = cluster.shared / "cut_off", tmp_path / "log"
    job = cluster.submit(storage, log)
    deadline = time.monotonic() + _JOB_TIMEOUT_S
    while not any(storage.glob("train_sft/*/checkpoints/checkpoint-4/complete.json")):
        assert job.poll() is None and time.monotonic() < deadline, log.read_text()[-5000:]
        time.sleep(0.05)
    host = next(one for one in cluster.hosts[1:] if any("RayTrainWorker" in line for line in _of_ray(one)))
    machines.cut_off(host)
    try:
        assert not any(storage.glob(f"train_sft/*/checkpoints/checkpoint-{_STEPS}/complete.json"))
        trained = _model_of(job, log)
    finally:
        machines.cut_off(host, back=True)
    steps: dict[str, list[int]] = {}
    for worker, step in re.findall(
        rf"RayTrainWorker pid=(\d+(?:, ip=[\d.]+)?).*?progress (\d+)/{_STEPS} ", log.read_text()
    ):
        steps.setdefault(worker, []).append(int(step))
    _, second = steps.values()  # the worker that tells, of each group; Ray leaves out lines that come fast
    assert second[0] > 4, steps  # it went on from checkpoint 4 or a later one
    expected, found = (load_file(folder / "model.safetensors") for folder in (undisturbed, trained))
    assert expected.keys() == found.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=1e-6, rtol=1e-5, msg=name)


def _of_ray(host: machines.Host) -> list[str]:
    commands = [_command(process) for process in machines.processes(host)]
    return [line for line in commands if "raylet" in line or "gcs_server" in line or "ray::" in line]


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except FileNotFoundError:
        return ""
