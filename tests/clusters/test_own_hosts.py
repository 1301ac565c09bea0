"""`ray up`, `ray job submit` and `ray down` on three hosts made of network namespaces, with clusters/local.yaml."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.clusters import hosts as machines
from tests.workflows.toy import write_tables

ROOT = Path(__file__).resolve().parents[2]
_UP_TIMEOUT_S, _JOB_TIMEOUT_S = 300, 900
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


def test_up_job_down(three, tmp_path: Path, tiny_model_dir: Path) -> None:
    found, _, shared = three
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    env = {**os.environ, "HOME": str(home), "RAY_AUTH_MODE": "token"}
    page = _own_file(three, tmp_path)
    model = shutil.copytree(tiny_model_dir, shared / "model")
    write_tables(shared / "storage", train=16, test=4)
    up = _ray("up", "--yes", "--no-config-cache", str(page), timeout_s=_UP_TIMEOUT_S, env=env)
    assert up.returncode == 0, up.stdout[-3000:] + up.stderr[-3000:]
    try:
        training = (
            f"python -m workflows.train_sft model={model} demonstrations={shared}/storage/lancedb#demonstrations "
            f"storage={shared}/storage adapter.name=none deepspeed.stage=2 scale.workers=2 scale.cpus_per_worker=1 "
            "scale.placement=STRICT_SPREAD optim.batch_size=4 optim.micro_batch_size=2 ray.wait_for.CPU=3"
        )
        _await_cpus(3, page, env)
        # The dashboard listens on the head's loopback only, so the job is submitted from there.
        inside = ["ip", "netns", "exec", found[0].name, sys.executable, "-m", "ray.scripts.scripts", "job", "submit"]
        submit = [*inside, "--address", "http://127.0.0.1:8265", "--working-dir", str(ROOT), "--", *training.split()]
        job = subprocess.run(submit, cwd=ROOT, capture_output=True, text=True, timeout=_JOB_TIMEOUT_S, env=env)
        lines = [line for line in job.stdout.splitlines() if line.startswith('{"workflow"')]
        assert job.returncode == 0 and lines, job.stdout[-3000:] + job.stderr[-2000:]
        done = json.loads(lines[-1])
        assert done["status"] == "done"
        assert (Path(done["outputs"]["model"]) / "model.safetensors").is_file()
    finally:
        down = _ray("down", "--yes", str(page), timeout_s=_UP_TIMEOUT_S, env=env)
    assert down.returncode == 0, down.stdout[-3000:] + down.stderr[-2000:]
    deadline = time.monotonic() + _DOWN_TIMEOUT_S
    while left := [line for host in found for line in _of_ray(host)]:
        assert time.monotonic() < deadline, f"ray down left {left}"
        time.sleep(2)


def _of_ray(host: machines.Host) -> list[str]:
    commands = [_command(process) for process in machines.processes(host)]
    return [line for line in commands if "raylet" in line or "gcs_server" in line or "ray::" in line]


def _command(process: int) -> str:
    try:
        return Path(f"/proc/{process}/cmdline").read_text().replace("\0", " ")
    except FileNotFoundError:
        return ""
