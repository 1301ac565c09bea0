"""An MLflow server on a real PostgreSQL, two writers at once: what a team works on."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from components.tracking.history import read_curves
from components.tracking.run import Result, find_result, finish_run, open_run
from tests.object_store import free_port, mlflow_server

ROOT = Path(__file__).resolve().parents[3]
_START_TIMEOUT_S = 60
_WRITER = """
import sys
from pathlib import Path
from components.tracking.run import Result, finish_run, open_run
writer, storage, count = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
for number in range(count):
    with open_run(storage, "team", "toy", f"{writer}-{number}", {"by": writer}) as run:
        for step in range(5):
            run.log_metrics({"train/loss": float(number * 10 + step)}, step=step)
        page = storage / f"{writer}-{number}.txt"
        page.write_text(writer * 100)
        run.log_artifact(page)
        finish_run(run, Result({"page": str(page)}, {"score": float(number)}), 1.0)
"""


def _binary(name: str) -> str | None:
    """Return where PostgreSQL's own program is; Debian keeps them out of PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(found[-1]) if found else None)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL of its own in a folder of its own; its address as SQLAlchemy writes it."""
    pytest.importorskip("psycopg", reason="the driver comes with pip install 'raylign[team]'")
    initdb, postgres = _binary("initdb"), _binary("postgres")
    if not initdb or not postgres:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    user = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = "postgres"
        if subprocess.run(["id", user], capture_output=True).returncode:
            pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres' to run it as")
    folder = Path("/tmp") / f"pg-{uuid.uuid4().hex[:8]}"  # short: a Unix socket's path has 107 characters
    folder.mkdir(mode=0o700)
    if user:
        shutil.chown(folder, user)
    data, port = folder / "data", free_port()
    try:
        command = [initdb, "-D", str(data), "-U", "raylign", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C"]
        subprocess.run(command, check=True, capture_output=True, user=user, cwd=folder, timeout=120)
        options = ["-h", "127.0.0.1", "-p", str(port), "-k", str(folder), "-c", "fsync=off"]
        with (folder / "log").open("w") as log:
            server = subprocess.Popen(
                [postgres, "-D", str(data), *options], stdout=log, stderr=log, user=user, cwd=folder
            )
        try:
            _await(port, server, folder / "log")
            yield f"postgresql+psycopg://raylign@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()
            server.wait(30)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await(port: int, server: subprocess.Popen, log: Path) -> None:
    import psycopg

    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        assert server.poll() is None and time.monotonic() < deadline, log.read_text()[-2000:]
        try:
            psycopg.connect(host="127.0.0.1", port=port, user="raylign", dbname="postgres").close()
            return
        except psycopg.OperationalError:
            time.sleep(0.2)


def test_two_writers_at_once_lose_nothing(database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each makes the experiment if it is the first, writes runs, curves and artefacts, and finds the other's."""
    storage, count = tmp_path / "storage", 3
    storage.mkdir()
    with mlflow_server(tmp_path / "artifacts", database, workers=2) as url:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        writers = [
            subprocess.Popen([sys.executable, "-c", _WRITER, name, str(storage), str(count)], cwd=ROOT)
            for name in ("ann", "bob")
        ]
        assert [writer.wait(180) for writer in writers] == [0, 0]
        for name in ("ann", "bob"):
            for number in range(count):
                found = find_result(storage, "team", "toy", f"{name}-{number}")
                assert found is not None and found.result.metrics == {"score": float(number)}
                curve = read_curves(storage, found.run_id)["train/loss"]
                assert curve == [(step, number * 10.0 + step) for step in range(5)]
        kept = list((tmp_path / "artifacts").rglob("ann-0.txt"))
        assert len(kept) == 1 and kept[0].read_text() == "ann" * 100, "artefacts go through the server to its folder"
        with open_run(storage, "team", "toy", "late", {}) as run:
            finish_run(run, Result({}), 0.0)
        assert find_result(storage, "team", "toy", "late") is not None
    assert not (storage / "mlflow.db").exists(), "nothing is kept beside the server"
