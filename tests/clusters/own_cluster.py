"""A cluster of hosts in network namespaces, as `ray up` makes it of clusters/local.yaml, and trainings on it."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from tests.clusters import hosts as machines

ROOT = Path(__file__).resolve().parents[2]
STEPS = 20  # 5 epochs of 16 rows, 4 a step
JOB_TIMEOUT_S = 600
_UP_TIMEOUT_S = 300
_DOWN_TIMEOUT_S = 150  # a worker's processes end when the head has not answered for a minute


@dataclass(frozen=True)
class Cluster:
    """Hosts as one cluster, and what a job on it needs; the first host is the head."""

    hosts: Sequence[machines.Host]
    shared: Path  # a folder that all of them see
    small: Path  # another one, on a disk of its own that is soon full
    page: Path  # the cluster's YAML
    model: Path
    env: dict[str, str]

    def up(self) -> None:
        """Bring every host up, or up again: `ray up` returns when the head is, which then brings the others up."""
        up = self._ray("up", "--yes", "--no-config-cache", str(self.page), timeout_s=_UP_TIMEOUT_S)
        assert up.returncode == 0, up.stdout[-3000:] + up.stderr[-3000:]
        self.await_all()

    def await_all(self) -> None:
        """Wait until Ray knows the one CPU of every host."""
        deadline = time.monotonic() + _UP_TIMEOUT_S
        while True:
            status = self._ray("exec", "--no-config-cache", str(self.page), "ray status", timeout_s=120)
            if status.returncode == 0 and f"/{len(self.hosts)}.0 CPU" in status.stdout:
                return
            assert time.monotonic() < deadline, status.stdout[-2000:] + status.stderr[-2000:]
            time.sleep(5)

    def restart(self, offsets: dict[str, str]) -> None:
        """Stop hosts, set the clock of each ("+1h") by the host's name, and have them back."""
        chosen = [host for host in self.hosts if host.name in offsets]
        for host in chosen:
            machines.stop(host)
            machines.set_clock(host, offsets[host.name])
            machines.start(host)
        deadline = time.monotonic() + _UP_TIMEOUT_S
        while not all(any("raylet/raylet " in line for line in of_ray(host).values()) for host in chosen):
            assert time.monotonic() < deadline, "Ray was not started again on a host that came back"
            time.sleep(2)
        self.await_all()

    def down(self) -> None:
        """Take the cluster down; nothing of Ray may be left on any host."""
        down = self._ray("down", "--yes", str(self.page), timeout_s=_UP_TIMEOUT_S)
        assert down.returncode == 0, down.stdout[-3000:] + down.stderr[-2000:]
        deadline = time.monotonic() + _DOWN_TIMEOUT_S
        while left := [line for host in self.hosts for line in of_ray(host).values()]:
            assert time.monotonic() < deadline, f"ray down left {left}"
            time.sleep(2)

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

    def submit_until(self, step: int, storage: Path, log: Path) -> subprocess.Popen:
        """Submit a training and return when its checkpoint of ``step`` is whole."""
        job = self.submit(storage, log)
        deadline = time.monotonic() + JOB_TIMEOUT_S
        while not any(storage.glob(f"train_sft/*/checkpoints/checkpoint-{step}/complete.json")):
            assert job.poll() is None and time.monotonic() < deadline, log.read_text()[-5000:]
            time.sleep(0.05)
        return job

    def busy_host(self) -> machines.Host:
        """Return a host other than the head on which a training worker runs."""
        return next(host for host in self.hosts[1:] if any("RayTrainWorker" in line for line in of_ray(host).values()))

    def _ray(self, *words: str, timeout_s: float) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "ray.scripts.scripts", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, env=self.env)


def own_file(hosts: Sequence[machines.Host], key: Path, folder: Path) -> Path:
    """Return clusters/local.yaml with these hosts in it, and this Python in place of one that is installed there."""
    config = yaml.safe_load((ROOT / "clusters" / "local.yaml").read_text())
    config["cluster_name"] = f"raylign-test-{os.getpid()}"
    config["provider"] |= {"head_ip": hosts[0].address, "worker_ips": [host.address for host in hosts[1:]]}
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


def model_of(job: subprocess.Popen, log: Path) -> Path:
    """Wait for the job's end and return the folder of the model that it trained."""
    job.wait(JOB_TIMEOUT_S)
    lines = [line for line in log.read_text().splitlines() if line.startswith('{"workflow"')]
    assert job.returncode == 0 and lines, log.read_text()[-5000:]
    done = json.loads(lines[-1])
    assert done["status"] == "done" and done["metrics"]["steps"] == STEPS
    return Path(done["outputs"]["model"])


def steps_told(log: Path) -> list[list[int]]:
    """Return the steps that each group of workers told, in the order of the groups; Ray leaves out some lines."""
    steps: dict[str, list[int]] = {}
    lines = re.findall(rf"RayTrainWorker pid=(\d+(?:, ip=[\d.]+)?).*?progress (\d+)/{STEPS} ", log.read_text())
    for worker, step in lines:
        steps.setdefault(worker, []).append(int(step))
    return list(steps.values())


def assert_same_model(found: Path, expected: Path) -> None:
    """Two folders hold the same weights, but for the order in which float32 is added up."""
    import torch
    from safetensors.torch import load_file

    ours, theirs = (load_file(folder / "model.safetensors") for folder in (found, expected))
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        torch.testing.assert_close(ours[name], weight, atol=1e-6, rtol=1e-5, msg=name)


def of_ray(host: machines.Host) -> dict[int, str]:
    """Return Ray's processes on a host, and their command lines."""
    commands = {process: _command(process) for process in machines.processes(host)}
    return {process: line for process, line in commands.items() if re.search("raylet|gcs_server|ray::", line)}


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except FileNotFoundError:
        return ""
