"""A pipeline's own cluster ends at once, whatever its jobs left running on it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
LEAVES_AN_ACTOR = """
import ray
ray.init()
actor = ray.remote(type("Left", (), {"ready": lambda self: True})).options(lifetime="detached", name="left").remote()
print("ready", ray.get(actor.ready.remote()))
"""
RUNS_IT = """
import json, shlex, sys, time
import psutil
from components.orchestration.cluster import ClusterSize, local_cluster

with local_cluster(ClusterSize(num_cpus=1, object_store_gib=0.1)) as made:
    from ray.job_submission import JobSubmissionClient  # reads the cluster's token, once
    client = JobSubmissionClient(made.dashboard)
    job = client.submit_job(entrypoint=shlex.join([sys.executable, "-c", sys.argv[1]]))
    while not client.get_job_status(job).is_terminal():
        time.sleep(0.2)
    log = client.get_job_logs(job)
    family = psutil.Process(made.pid).children(recursive=True)
    left = any("ray::Left" in " ".join(process.cmdline()) for process in family)
    ending = time.monotonic()
seconds = time.monotonic() - ending
print(json.dumps({"log": log, "left": left, "seconds": seconds, "alive": len(psutil.wait_procs(family, timeout=5)[1])}))
"""


@pytest.mark.timeout(180)
def test_an_actor_that_outlives_its_job_does_not_hold_up_the_end() -> None:
    """Ray Data and Ray Serve leave such actors; Ray would wait for them until our own patience ends, after 30 s."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    ran = subprocess.run(
        [sys.executable, "-c", RUNS_IT, LEAVES_AN_ACTOR], cwd=ROOT, env=env, capture_output=True, text=True, timeout=170
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    said = json.loads(ran.stdout.splitlines()[-1])
    assert "ready True" in said["log"] and said["left"]
    assert said["seconds"] < 20 and said["alive"] == 0
