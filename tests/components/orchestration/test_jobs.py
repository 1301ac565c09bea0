"""Ray's real client against a dashboard that fails, hangs, or is gone for good while a job runs."""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components.orchestration import jobs
from components.orchestration.jobs import JobEnd, run_job

_LINE = {"workflow": "report", "run_id": "r", "status": "done", "outputs": {}, "metrics": {}}


class _Dashboard(BaseHTTPRequestHandler):
    """Answers as Ray's jobs API does; what it does when it is asked for a job's state, ``plan`` says in turn."""

    plan: list[str]
    stopped: list[str]

    def do_GET(self) -> None:
        import ray

        if self.path == "/api/version":
            self._answer({"version": "4", "ray_version": ray.__version__, "ray_commit": ""})
        elif self.path.startswith("/api/packages/"):
            self._answer({})
        elif self.path.endswith("/logs"):
            self._answer({"logs": f"progress 1/2 rows\n{json.dumps(_LINE)}\n"})
        else:
            self._state(self.plan.pop(0) if len(self.plan) > 1 else self.plan[0])

    def do_POST(self) -> None:
        given = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or "{}")
        if self.path.endswith("/stop"):
            self.stopped.append(self.path)
            self._answer({"stopped": True})
        else:
            self._answer({"job_id": given["submission_id"], "submission_id": given["submission_id"]})

    def log_message(self, *_: Any) -> None:
        pass

    def _state(self, planned: str) -> None:
        if planned == "fail":
            self._answer({"error": "busy"}, 500)
            return
        if planned == "hang":
            time.sleep(3)
            planned = "RUNNING"
        with contextlib.suppress(OSError):  # who asked may have gone
            self._answer({"type": "SUBMISSION", "status": planned, "entrypoint": "x", "message": "it ended"})

    def _answer(self, page: Any, status: int = 200) -> None:
        body = json.dumps(page).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def _dashboard(*plan: str) -> Iterator[tuple[str, list[str]]]:
    stopped: list[str] = []
    handler = type("Handler", (_Dashboard,), {"plan": list(plan), "stopped": stopped})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", stopped
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_POLL_S", 0.05)
    for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
        monkeypatch.delenv(name, raising=False)


def _run(address: str, folder: Path, stop: bool = False) -> JobEnd:
    project = folder / "project"
    project.mkdir(exist_ok=True)
    (project / "page.txt").write_text("x")
    return run_job(
        address,
        "x",
        project=project,
        parent_run="p",
        log_path=folder / "log",
        on_progress=lambda *_: None,
        stop_requested=lambda: stop,
    )


def test_a_dashboard_that_fails_and_hangs_for_a_while_ends_no_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs, "_REQUEST_TIMEOUT_S", 0.5)
    with (
        _dashboard("RUNNING", "fail", "fail", "hang", "RUNNING", "SUCCEEDED") as (address, stopped),
        caplog.at_level(logging.WARNING),
    ):
        ended = _run(address, tmp_path)
    assert ended == JobEnd(True, _LINE, "it ended") and not stopped
    assert (tmp_path / "log").read_text().count("progress 1/2 rows") == 1
    assert sum("does not answer" in record.message for record in caplog.records) == 1, "once an outage"


def test_a_dashboard_that_is_gone_for_good_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_OUTAGE_S", 0.5)
    with _dashboard("RUNNING", "fail") as (address, stopped):
        with pytest.raises(RuntimeError, match=rf"the cluster at {address} has not answered for \d s: see whether"):
            _run(address, tmp_path)
        assert len(stopped) == 1, "should it be there after all"


def test_who_wants_to_stop_does_not_wait_for_it(tmp_path: Path) -> None:
    with _dashboard("fail") as (address, _):
        started = time.monotonic()
        with pytest.raises(RuntimeError, match="has not answered for 0 s"):
            _run(address, tmp_path, stop=True)
        assert time.monotonic() - started < 30
