"""What happens when two processes are at the same step, or at the same pipeline."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from components.config import UserError
from components.orchestration import entry


def test_a_step_waits_for_whoever_runs_it_however_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(entry, "_LOCK_POLL_S", 0.01)
    monkeypatch.setattr(entry, "_LOCK_NEWS_S", 0.1)
    held, order = threading.Event(), []

    def first() -> None:
        with entry._only_one(tmp_path, "train_sft", "key", float("inf")):
            held.set()
            time.sleep(0.5)
            order.append("first")

    other = threading.Thread(target=first)
    other.start()
    assert held.wait(10)
    with caplog.at_level("INFO"), entry._only_one(tmp_path, "train_sft", "key", float("inf")):
        order.append("second")
    other.join()
    assert order == ["first", "second"]
    told = [record for record in caplog.records if "runs the same train_sft" in record.message]
    assert 2 <= len(told) <= 6  # news now and then, not at each look


def test_a_pipeline_of_a_name_that_runs_is_refused_after_a_while(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(entry, "_LOCK_POLL_S", 0.01)
    with entry._only_one(tmp_path, "pipeline", "key", 0.1):
        again = entry._only_one(tmp_path, "pipeline", "key", 0.1)
        with pytest.raises(UserError, match="a pipeline of this name is running already"), again:
            pass
        with entry._only_one(tmp_path, "pipeline", "another", 0.1):
            pass
    with entry._only_one(tmp_path, "pipeline", "key", 0.1):
        pass


@pytest.mark.parametrize(
    ("job", "threads"),
    [
        (None, "1"),  # no job: what the shell says
        ({"runtime_env": {"env_vars": {}}}, str(len(os.sched_getaffinity(0)))),
        ({"runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}}, "1"),  # a person's own wish
    ],
)
def test_a_jobs_own_process_computes_with_every_core(monkeypatch, job, threads) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as Ray leaves it where a job asks for no CPU
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    if job is not None:
        monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))
    entry.use_all_cores()
    assert os.environ["OMP_NUM_THREADS"] == threads
