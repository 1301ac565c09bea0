"""What happens when two processes are at the same step, or at the same pipeline."""

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
