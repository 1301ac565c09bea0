"""Ray clusters: the one a workflow by itself uses, and the local one that a pipeline starts for its jobs."""

import contextlib
import ctypes
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from components.config import CPU_ENV, Config, Field, RayConfig, load

logger = logging.getLogger(__name__)
_PR_SET_PDEATHSIG = 1
_START_TIMEOUT_S = 120
_STOP_TIMEOUT_S = 30
_PREFIX = "raylign-"
# A node that is told to end waits half a minute for actors to leave it, for the sake of what a Serve proxy still has to
# answer. Here jobs have ended; what Ray Data and Serve leave behind goes with the cluster.
_AT_ONCE = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0"}


@dataclass(frozen=True)
class LocalCluster:
    """A cluster that this process started: where it answers and which process to watch."""

    dashboard: str
    pid: int


class ClusterSize(Config):
    """A local cluster's size: what the files that ``ray.size`` names hold."""

    num_cpus: int | None = Field(None, ge=1, description="CPUs; none takes every core")
    object_store_gib: float | None = Field(None, gt=0, description="shared memory; none takes Ray's default")


def local_size(config: RayConfig) -> ClusterSize:
    """Return the size of the local cluster that ``config`` asks for.

    Raises:
        UserError: the file that ``config.size`` names is missing or wrong.
    """
    size = load(ClusterSize, config.size, [])
    return size.model_copy(update={"num_cpus": config.num_cpus}) if config.num_cpus else size


def job_env() -> dict[str, str] | None:
    """Return the environment variables that the Ray job was given whose own process this is; None outside of a job."""
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}"))
    return job.get("runtime_env", {}).get("env_vars", {}) if job else None


@contextlib.contextmanager
def ray_session(config: RayConfig, storage: str | None = None) -> Iterator[None]:
    """Connect to the job's cluster, else to ``config.address``, else start a local one; leave none behind.

    Args:
        storage: what every node must be able to read and write.

    Raises:
        UserError: a node does not see the storage, or the cluster does not have what ``config.wait_for`` says.
    """
    import ray

    from components.orchestration import nodes

    given = job_env()
    in_cluster = given is not None or "RAY_ADDRESS" in os.environ
    # To set one again that the job was given is an error.
    worker_env = {name: value for name, value in CPU_ENV.items() if name not in (given or {})}
    if in_cluster:
        ray.init(runtime_env={"env_vars": worker_env})
    elif config.address:
        ray.init(address=config.address, runtime_env={"env_vars": worker_env})
    else:
        env = {"env_vars": {**worker_env, "PATH": path_with_python()}}
        size = local_size(config)
        store = int(size.object_store_gib * 2**30) if size.object_store_gib else None
        # "local" is a cluster of its own: without it Ray joins any that runs on this machine, or that left its address.
        ray.init("local", num_cpus=size.num_cpus, object_store_memory=store, include_dashboard=False, runtime_env=env)
    try:
        grows = bool(in_cluster or config.address)
        if storage is not None and grows:
            nodes.check_scratch(storage, config.wait_for, ray.cluster_resources())
        nodes.await_resources(config.wait_for, config.wait_s if grows else 0.0)
        if storage is not None:
            nodes.check_shared(storage)
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def local_cluster(size: ClusterSize) -> Iterator[LocalCluster]:
    """Start a one-node cluster with a jobs API, free ports and its own token; stop it on the way out.

    The cluster dies with this process even when that is killed hard: the kernel then signals the process
    that holds it, which takes the rest down. The token goes into this process's environment.
    """
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    _sweep()
    temp_dir = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")  # short: a Unix socket's path has 107 characters
    dashboard_port = _free_port()
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"),
        *("--disable-usage-stats", f"--temp-dir={temp_dir}", f"--port={_free_port()}"),
        *("--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard_port}"),
        *(f"--ray-client-server-port={_free_port()}", f"--dashboard-agent-listen-port={_free_port()}"),
        *("--node-ip-address=127.0.0.1",),
        *((f"--num-cpus={size.num_cpus}",) if size.num_cpus else ()),
        *((f"--object-store-memory={int(size.object_store_gib * 2**30)}",) if size.object_store_gib else ()),
    ]
    log_path = Path(temp_dir) / "start.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **CPU_ENV, **_AT_ONCE, "PATH": path_with_python()},
            start_new_session=True,  # Ctrl-C reaches the pipeline, which stops its jobs in order
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    try:
        address = f"http://127.0.0.1:{dashboard_port}"
        _await_jobs_api(address, process, log_path)
        yield LocalCluster(address, process.pid)
    finally:
        _stop(process)
        shutil.rmtree(temp_dir, ignore_errors=True)


def path_with_python() -> str:
    """Return PATH with this Python's folder first: its ``python`` and ``ninja`` are what workers need."""
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _sweep() -> None:
    """Remove the folders of clusters whose owner was killed hard and could not do it itself."""
    import psutil

    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_jobs_api(address: str, process: subprocess.Popen, log_path: Path) -> None:
    from ray.job_submission import JobSubmissionClient

    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"the local Ray cluster did not start: {log_path.read_text()[-2000:]}")
        try:
            JobSubmissionClient(address).list_jobs()
            return
        except Exception as error:  # not up yet: connection refused, agent missing
            if time.monotonic() > deadline:
                raise RuntimeError(f"the local Ray cluster did not answer in {_START_TIMEOUT_S} s") from error
            time.sleep(0.5)


def _stop(process: subprocess.Popen) -> None:
    import psutil

    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return
    process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
    _, alive = psutil.wait_procs(family, timeout=10)
    for leftover in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            leftover.kill()
