"""Steps as Ray jobs: submit, follow the log, wait, read the JSON line."""

import contextlib
import functools
import json
import logging
import os
import re
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import AT_ONCE_VARIABLE, CPU_ENV
from components.storage import SCRATCH_VARIABLE
from components.tracking.environment import COMMIT_VARIABLE, commit
from components.tracking.run import PARENT_VARIABLE

_PROGRESS = re.compile(r"progress (\d+)/(\d+) (\S+)")
_PASSED_ON = (  # of object stores only where they are: their credentials are each host's own
    *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "HF_HOME", "HF_TOKEN", "HF_HUB_OFFLINE"),
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_DEFAULT_REGION", SCRATCH_VARIABLE),
)
_POLL_S = 1.0
_AGENT_TIMEOUT_S = 60.0
_REQUEST_TIMEOUT_S = 30.0
_OUTAGE_S = 120.0  # a head that is busy or a network that is away for a while ends no job of hours
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class JobEnd:
    """How a job ended: its JSON line, or none where it died before writing one."""

    succeeded: bool
    line: dict[str, Any] | None
    message: str


def run_job(
    address: str,
    entrypoint: str,
    *,
    project: Path,
    parent_run: str,
    log_path: Path,
    on_progress: Callable[[int, int, str], None],
    stop_requested: Callable[[], bool],
    at_once: int = 1,
) -> JobEnd:
    """Run one command as a Ray job with the project as its working directory, and wait for its end.

    Args:
        address: of the cluster's dashboard.
        log_path: gets the job's whole output as it comes.
        stop_requested: polled; when it returns true the job is stopped.
        at_once: jobs like this one that run beside each other; its workers leave the others their cores.

    Raises:
        RuntimeError: the dashboard has not answered for two minutes.
    """
    from ray.job_submission import JobStatus, JobSubmissionClient

    for chatty in (
        "dashboard.modules.dashboard_sdk",
        "_private.runtime_env.working_dir",
        "_private.runtime_env.packaging",
    ):
        logging.getLogger(f"ray.{chatty}").setLevel(logging.ERROR)  # they tell which files stay at home
    client: Any = JobSubmissionClient(address)
    env = {**CPU_ENV, COMMIT_VARIABLE: commit(), PARENT_VARIABLE: parent_run, AT_ONCE_VARIABLE: str(at_once)}
    env |= {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    runtime_env = {"working_dir": str(project), "excludes": ["artifacts"], "env_vars": env}
    job = _submit(client, entrypoint, runtime_env)
    client._do_request = functools.partial(client._do_request, timeout=_REQUEST_TIMEOUT_S)  # by itself it has none
    ask = functools.partial(_ask, address, stop_requested)
    seen = ""
    try:
        while True:
            info = ask(lambda: client.get_job_info(job))
            seen = _follow(ask(lambda: client.get_job_logs(job)), seen, log_path, on_progress)
            if info.status.is_terminal():
                break
            if stop_requested():
                client.stop_job(job)
            time.sleep(_POLL_S)
    except BaseException:
        with contextlib.suppress(Exception):  # the cluster may be what failed
            client.stop_job(job)
        raise
    seen = _follow(ask(lambda: client.get_job_logs(job)), seen, log_path, on_progress)
    return JobEnd(info.status == JobStatus.SUCCEEDED, _last_json(seen), info.message or "")


def _submit(client: Any, entrypoint: str, runtime_env: dict[str, Any]) -> str:
    """Submit a job and return its id; a cluster that has just started has no agent to take it for some seconds."""
    deadline = time.monotonic() + _AGENT_TIMEOUT_S
    while True:
        try:
            job = f"raylign-{uuid.uuid4().hex[:12]}"
            return client.submit_job(entrypoint=entrypoint, submission_id=job, runtime_env=runtime_env)
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_S)


def _ask(address: str, stop_requested: Callable[[], bool], question: Callable[[], Any]) -> Any:
    """Return what the dashboard answers, asking again while it does not.

    Raises:
        RuntimeError: it has not answered for ``_OUTAGE_S``, or not when the job was to be stopped.
    """
    failed_at = None
    while True:
        try:
            return question()
        except (OSError, RuntimeError) as error:  # requests' own errors are of the first kind, Ray's of the second
            now = time.monotonic()
            if failed_at is None:
                failed_at = now
                logger.warning("the cluster at %s does not answer: asking again for %.0f s", address, _OUTAGE_S)
            if now - failed_at >= _OUTAGE_S or stop_requested():
                raise RuntimeError(
                    f"the cluster at {address} has not answered for {now - failed_at:.0f} s: see whether its head is "
                    f"up, and give the same command again, which goes on with what is done ({error})"
                ) from error
            time.sleep(_POLL_S)


def _follow(text: str, seen: str, log_path: Path, on_progress: Callable[[int, int, str], None]) -> str:
    fresh = text[len(seen) :]
    if fresh:
        with log_path.open("a") as log:
            log.write(fresh)
        if marks := _PROGRESS.findall(fresh):
            done, total, unit = marks[-1]
            on_progress(int(done), int(total), unit)
    return text


def _last_json(text: str) -> dict[str, Any] | None:
    for line in reversed(text.splitlines()):
        if line.startswith('{"workflow"'):
            return json.loads(line)
    return None
