"""`parts`: a file that memory does not hold becomes tables; workers that stay small, whatever the number of pairs."""

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from components.data import store
from tests.workflows import warm
from tests.workflows.toy import ROOT, clusterless

WORDS = [f"{start}{middle}{end}" for start in "bdfgklmnprst" for middle in ("a", "ei", "o", "u") for end in "lmnrst"]
NO_VECTORS = ("clean.duplicates.near=false", "clean.decontaminate.near=false")
REPEATED = 50  # every so many lines one comes again


def write_pairs(path: Path, count: int) -> int:
    """Write that many different pairs of about 700 characters, and some of them again; return the number of those."""
    draw = random.Random(0)
    again = 0
    with path.open("w") as file:
        for number in range(count):
            texts = [" ".join(draw.choices(WORDS, k=length)) for length in (40, 50, 50)]
            row = {"prompt": f"{texts[0]} {number}?", "chosen": texts[1], "rejected": texts[2]}
            line = json.dumps(row) + "\n"
            file.write(line)
            if number % REPEATED == 0:
                file.write(line)
                again += 1
    return again


@contextmanager
def largest_processes(process: subprocess.Popen) -> Iterator[dict[str, int]]:
    """Name → the most bytes that one process of that name had for itself, among all that ``process`` started."""
    most: dict[str, int] = {}
    over = threading.Event()

    def look() -> None:
        while not over.wait(1.0):
            try:
                whole = psutil.Process(process.pid)
                family = [whole, *whole.children(recursive=True)]
            except psutil.Error:  # it is about to end
                continue
            for one in family:
                try:
                    memory = one.memory_info()
                    name = " ".join(one.cmdline()[:1])[:40] or one.name()
                except psutil.Error:
                    continue
                most[name] = max(most.get(name, 0), memory.rss - memory.shared)

    watching = threading.Thread(target=look, daemon=True)
    watching.start()
    try:
        yield most
    finally:
        over.set()
        watching.join()


def test_a_file_in_parts_by_the_workflow(cluster: str, tmp_path: Path) -> None:
    again = write_pairs(tmp_path / "pairs.jsonl", 300)
    arguments = (f"file={tmp_path}/pairs.jsonl", "parts=4", "file_test_share=0.1", f"storage={tmp_path}/storage")
    code, line, log = warm.ask("build_preferences", *arguments, *NO_VECTORS, cluster=cluster)
    assert code == 0, log
    assert store.count(line["outputs"]["preferences"]) == 300 == store.count(line["outputs"]["demonstrations"])
    assert line["metrics"]["dropped/repeated"] == again == 6
    assert 0 < line["metrics"]["pairs/test"] < 60
    assert Path(line["outputs"]["card"]).is_file()


def test_what_compares_vectors_is_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path / "pairs.jsonl", 3)
    arguments = (f"file={tmp_path}/pairs.jsonl", "parts=4", f"storage={tmp_path}/storage")
    code, line, _ = warm.ask("build_preferences", *arguments)
    assert code == 2 and "clean.duplicates.near=false" in line["outputs"]["error"]


@pytest.mark.exhaustive
@pytest.mark.timeout(6000)
def test_five_million_pairs_within_4_gib_a_process(tmp_path: Path) -> None:
    count = int(os.environ.get("RAYLIGN_PAIRS", 5_000_000))
    again = write_pairs(tmp_path / "pairs.jsonl", count)
    arguments = [f"file={tmp_path}/pairs.jsonl", "parts=64", "file_test_share=0.01", f"storage={tmp_path}/storage"]
    command = [sys.executable, "-m", "workflows.build_preferences", *arguments, *NO_VECTORS]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True, env=clusterless(), start_new_session=True
        )
        with largest_processes(process) as most:
            said, _ = process.communicate()
    print({name: f"{held / 2**30:.2f} GiB" for name, held in sorted(most.items())})
    assert process.returncode == 0, (tmp_path / "log").read_text()[-3000:]
    line = json.loads(said.splitlines()[-1])
    assert store.count(line["outputs"]["preferences"]) == count
    assert line["metrics"]["dropped/repeated"] == again
    assert max(most.values()) < 4 * 2**30
