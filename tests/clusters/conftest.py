"""One cluster of three hosts for all tests of this folder."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters import hosts as machines
from tests.clusters.own_cluster import Cluster, model_of, own_file
from tests.workflows.toy import write_tables

_SMALL_DISK = "64m"


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Iterator[Cluster]:
    """What `ray up` makes of clusters/local.yaml; `ray down` leaves nothing of it."""
    if reason := machines.what_is_missing():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("cluster")
    (folder / ".ray").mkdir()
    (folder / ".ray" / "auth_token").write_text("0123456789abcdef" * 4)
    env = {**os.environ, "HOME": str(folder), "RAY_AUTH_MODE": "token"}
    with tempfile.TemporaryDirectory(prefix="hosts-", dir="/var/tmp") as place:
        shared, small = Path(place) / "shared", Path(place) / "small"
        shared.mkdir()
        small.mkdir()
        disk = ["mount", "-t", "tmpfs", "-o", f"size={_SMALL_DISK}", "tmpfs", str(small)]
        subprocess.run(disk, check=True)  # before the hosts, which see what is mounted when they start
        try:
            with machines.hosts(Path(place), 3) as (found, key):
                page = own_file(found, key, folder)
                model = shutil.copytree(tiny_model_dir, shared / "model")
                write_tables(shared, train=16, test=4)
                made = Cluster(found, shared, small, page, model, env)
                try:
                    made.up()
                    yield made
                finally:
                    made.down()
        finally:
            subprocess.run(["umount", str(small)], check=True)


@pytest.fixture(scope="package")
def undisturbed(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a training that nothing happened to."""
    log = tmp_path_factory.mktemp("undisturbed") / "log"
    return model_of(cluster.submit(cluster.shared / "undisturbed", log), log)
