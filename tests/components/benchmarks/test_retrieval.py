"""The retrieval benchmark: the same texts on both sides, its arithmetic, its scripts on a tiny model."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from components.benchmarks import our_search, our_vectors, peer_encode, peer_search, retrieval
from components.benchmarks.compare import compare_quantile, quantile
from components.benchmarks.processes import Arena, Ran, Setting
from components.benchmarks.retrieval import Built, RetrievalTask
from components.benchmarks.retrieval_corpus import Inputs, make_inputs
from components.config import UserError, load
from components.data import store
from components.data.records import passage_schema
from components.models.sources import digest
from components.retrieval.chunkers.tokens import Tokens
from components.retrieval.embed import Embedder
from tests.components.retrieval.tiny_embedder import make_tiny_embedder
from workflows.build_index import BuildIndex

ROOT = Path(__file__).resolve().parents[3]
PARTS = ("ours", "peer", "ratio", "ratio_low", "ratio_high")
TASK = RetrievalTask(count=12, max_tokens=20, overlap=0, slices=3, asked=8, warmup=2, k=3, batch_size=4)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_embedder(tmp_path_factory.mktemp("embedder"), ["wing", "flow", "heat", "plate", "shock"])


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("documents") / "documents.jsonl"
    rows = [
        {"id": str(n), "title": f"paper {n}", "text": " ".join(["wing flow heat plate shock"] * (1 + n % 7)) + f" {n}."}
        for n in range(15)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"id": "empty", "text": ""}]))
    return path


@pytest.fixture
def setting(tmp_path: Path, embedder: Path) -> Setting:
    arena = Arena(tmp_path, ROOT, 1, lambda pid: None)  # type: ignore[arg-type, return-value]
    return Setting(arena, [sys.executable, "-m", "workflows.build_index"], embedder, "digest", tmp_path, seed=3)


def _inputs(documents: Path, setting: Setting, asked: int = 8) -> Inputs:
    chunker = Tokens(max_tokens=TASK.max_tokens, overlap=TASK.overlap)
    folder = setting.arena.folder
    return make_inputs(documents, None, folder, setting.model, documents=12, asked=asked, chunker=chunker, seed=3)


def _index(inputs: Inputs, setting: Setting) -> str:
    """A table as build_index makes it, of the passages alone."""
    texts = json.loads(inputs.passages.read_text())
    vectors = Embedder(setting.model, "float32").documents(texts)
    rows = []
    for number, (text, vector) in enumerate(zip(texts, vectors, strict=True)):
        title, _, own = text.rpartition("\n")
        row = {"passage_id": str(number), "title": title, "text": own, "start": 0, "end": 1, "n_tokens": 1}
        names = [name for name in passage_schema(32).names if name not in ("section", "page", "date")]
        rows.append({**dict.fromkeys(names, "x"), **row, "embedder": digest(setting.model), "vector": vector.tolist()})
    uri = str(setting.arena.folder / "db")
    return store.write(uri, "passages", rows, schema=passage_schema(32), key="passage_id")


def _lines(capsys: pytest.CaptureFixture) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_both_sides_embed_the_same_texts(documents: Path, setting: Setting) -> None:
    inputs = _inputs(documents, setting)
    ours = load(BuildIndex, None, retrieval.our_arguments(TASK, setting, inputs, setting.arena.folder / "ours"))
    assert (ours.chunker.max_tokens, ours.chunker.overlap, ours.embed.batch_size) == (20, 0, 4)
    assert (ours.embed.model, ours.source.name, ours.ray.num_cpus) == (str(setting.model), "jsonl", 1)
    texts = json.loads(inputs.passages.read_text())
    assert len(texts) == inputs.count > 12 and len(json.loads(inputs.queries.read_text())) == 8
    assert all(text.startswith("paper ") for text in texts)
    again = _inputs(documents, setting)
    assert json.loads(again.passages.read_text()) == texts


def test_the_loop_prints_each_slice_and_keeps_the_vectors(
    documents: Path, setting: Setting, capsys: pytest.CaptureFixture
) -> None:
    inputs = _inputs(documents, setting)
    arguments = retrieval.encode_arguments(TASK, setting, inputs, "float32")
    assert arguments[0] == "-P"  # else the peer could import what stands beside its script
    capsys.readouterr()
    peer_encode.main(arguments[-1])
    *slices, last = _lines(capsys)
    assert len(slices) == 3 and sum(own["texts"] for own in slices) == inputs.count
    assert last["seconds"] > sum(own["seconds"] for own in slices)
    vectors = np.load(setting.arena.folder / "loop-float32.npy")
    expected = Embedder(setting.model, "float32").documents(json.loads(inputs.passages.read_text()))
    np.testing.assert_allclose(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), expected, atol=1e-4)
    assert retrieval.agreement(_index(inputs, setting), inputs, setting.arena.folder / "loop-float32.npy") > 0.95


def test_both_sides_are_asked_the_same(documents: Path, setting: Setting, capsys: pytest.CaptureFixture) -> None:
    inputs = _inputs(documents, setting)
    commands = retrieval.search_arguments(TASK, setting, inputs, _index(inputs, setting))
    assert commands["ours"][-1] == commands["peer"][-1]
    for script in (our_search, peer_search):
        capsys.readouterr()
        script.main(commands["ours"][-1])
        assert len(_lines(capsys)) == 8


def test_an_index_of_made_up_vectors_is_measured_against_exact_search(
    setting: Setting, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(our_vectors, "_ROWS_PER_WRITE", 700)
    task = TASK.model_copy(update={"vectors": 2000, "dimension": 16, "asked": 20})
    capsys.readouterr()
    our_vectors.main(retrieval.vectors_arguments(task, setting)[-1])
    (found,) = _lines(capsys)
    assert len(found["seconds"]) == 20 and 0.5 < found["recall"] <= 1 and found["build_s"] > 0
    spec = {"vectors": 2000, "dimension": 16, "queries": 20, "k": 10, "seed": 3}
    exact = our_vectors._Exact(spec)
    stored = [(start, vectors) for start, vectors in our_vectors._vectors(spec, 2000, "stored")]
    for start, vectors in stored:
        exact.look(start, vectors)
    everything = np.concatenate([vectors for _, vectors in stored])
    slow = [set(np.argsort(-(everything @ query))[:10].tolist()) for query in exact.queries_QD]
    assert exact.nearest() == slow


def test_the_metrics_hold_every_part_of_every_comparison() -> None:
    sides = {
        "ours": Built(100, [0.01, 0.01], 5.0, 200, {}),
        "float32": Built(100, [0.02, 0.04], 4.0, 100, {}),
        "bfloat16": Built(100, [0.01, 0.01], 2.0, 100, {}),
    }
    latencies = {"ours": [0.01] * 19 + [0.1], "peer": [0.02] * 19 + [0.1]}
    made = {"write_s": 1.0, "build_s": 2.0, "recall": 0.97, "seconds": [0.5, 0.5], "peak": 10}
    found = retrieval.figures(sides, latencies, 0.99, made)
    comparisons = {name.removesuffix(".ratio") for name in found if name.endswith(".ratio")}
    builds = {f"retrieval.build.{dtype}" for dtype in ("float32", "bfloat16")}
    what = ("passages_per_s", "whole_passages_per_s", "peak_memory")
    assert comparisons == {f"{build}.{of}" for build in builds for of in what} | {
        "retrieval.query.p50_s",
        "retrieval.query.p95_s",
    }
    assert all(f"{comparison}.{part}" in found for comparison in comparisons for part in PARTS)
    assert found["retrieval.build.float32.passages_per_s.ratio"] == pytest.approx(3.0)
    assert found["retrieval.build.float32.passages_per_s.ours"] == pytest.approx(100.0)
    assert found["retrieval.build.float32.whole_passages_per_s.ratio"] == pytest.approx(0.8)
    assert found["retrieval.build.bfloat16.peak_memory.ratio"] == pytest.approx(0.5)
    assert found["retrieval.query.p50_s.ratio"] == pytest.approx(2.0)
    assert (found["vectors.recall"], found["vectors.p95_s"], found["neighbours_agree"]) == (0.97, 0.5, 0.99)
    assert all(isinstance(value, float) for value in found.values())
    assert not [name for name in retrieval.figures(sides, latencies, 1.0, {}) if name.startswith("vectors")]


def test_quantiles_are_numpys() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 100):
        values = rng.random(size)
        for share in (0.0, 0.5, 0.95, 1.0):
            assert quantile(list(values), share) == pytest.approx(np.quantile(values, share))
    found = compare_quantile("c", [1.0, 1.0, 1.0], [2.0, 2.0], 0.95)
    assert [found[f"c.{part}"] for part in PARTS] == [1.0, 2.0, 2.0, 2.0, 2.0]


def test_what_leaves_nothing_to_measure_is_refused(documents: Path, setting: Setting, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give a larger count"):
        retrieval.built(5, [], 1.0, Ran([], [], 0, {}))
    with pytest.raises(UserError, match="overlap 20 must be smaller"):
        RetrievalTask(max_tokens=20, overlap=20).check()
    chunker = Tokens(max_tokens=20, overlap=0)
    with pytest.raises(UserError, match="has 15 documents, and documents=16 are asked for"):
        make_inputs(documents, None, tmp_path, setting.model, documents=16, asked=1, chunker=chunker, seed=0)
    with pytest.raises(UserError, match="cannot read"):
        make_inputs(tmp_path / "no", None, tmp_path, setting.model, documents=1, asked=1, chunker=chunker, seed=0)


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_a_real_run_measures_all_sides(embedder: Path, tmp_path: Path) -> None:
    rows = [{"id": str(n), "text": f"wing {n} " + "flow heat plate shock " * 30} for n in range(600)]
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = (
        f"documents={tmp_path}/documents.jsonl",
        "queries=null",
        f"embedder={embedder}",
        "count=600",
        "slices=3",
    )
    command = [sys.executable, "-m", "workflows.benchmark", "retrieval", f"storage={tmp_path}/storage", *settings]
    small = ("slices=3", "max_tokens=16", "overlap=0", "vectors=5000", "dimension=32", "asked=20", "threads=2")
    done = subprocess.run([*command, *small], cwd=ROOT, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stderr
    metrics = json.loads(done.stdout.splitlines()[-1])["metrics"]
    assert metrics["neighbours_agree"] > 0.8 and metrics["vectors.recall"] > 0.5
    assert metrics["retrieval.build.float32.passages_per_s.ratio_low"] > 0
