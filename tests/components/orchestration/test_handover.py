"""What lies in an object store and has still to come: which keys name it, and what a plan says until then."""

from pathlib import Path

import pytest

from components import storage
from components.config import load
from components.orchestration.handover import to_bring
from workflows import benchmark, build_index, build_steps

_CORPUS = ["source.name=folder", "source.path=s3://b/documents", "storage=s3://b/s"]


def test_paths_models_and_adapters_are_brought_and_tables_are_not() -> None:
    config = load(build_index.BuildIndex, None, [*_CORPUS, "embed.model=gs://b/embedder"])
    assert to_bring(config) == [(("source", "path"), "s3://b/documents"), (("embed", "model"), "gs://b/embedder")]
    assert to_bring(load(build_index.BuildIndex, None, ["source.name=folder", "source.path=/documents"])) == []


def test_plans_of_what_is_not_here_yet_say_so() -> None:
    assert build_index.plan(load(build_index.BuildIndex, None, _CORPUS)) == {"corpus": "known once it is fetched"}
    steps = load(build_steps.BuildSteps, None, ["file=s3://b/solutions.jsonl", "storage=s3://b/s"])
    assert build_steps.plan(steps) == {"questions": "known once the file is fetched"}


def test_a_benchmarks_plan_looks_into_the_working_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(storage.SCRATCH_VARIABLE, str(tmp_path))
    told = benchmark.plan(load(benchmark.Benchmark, None, ["name=ppo", "storage=s3://b/s"]))
    assert told["environment"].startswith(f"{storage.folder('s3://b/s')}/cache/")
