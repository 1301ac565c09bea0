"""Training rerankers and query adapters by the command line: what helps is kept and searched with, the rest is not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from components.data import search, store
from components.data.records import PASSAGE, passage_schema
from components.models.sources import digest
from components.retrieval.rerank import Reranker
from components.retrieval.retrieve import RetrieveConfig, Retriever
from components.tracking.lineage import read_lineage
from tests.components.retrieval import editions
from tests.workflows import warm

LEARN = ["cross_encoder.optim.epochs=8", "cross_encoder.optim.learning_rate=5e-3"]
READ = 4  # a subject's editions, which the words bring first: passages of two subjects are never compared in training
ALL_PASS = ["negatives.margin=-2", "negatives.max_likeness=1", "negatives.per_question=3", "negatives.depth=8"]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return editions.make_embedder(tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, mlflow_database: Path, embedder: Path) -> Path:
    """Subjects in editions with questions about them, and an index of documented functions."""
    folder = tmp_path_factory.mktemp("reranker") / "artifacts"
    folder.mkdir()
    shutil.copy(mlflow_database, folder)
    editions.make_index(str(folder / "lancedb"), embedder)
    editions.make_questions(str(folder / "lancedb"))
    functions(str(folder / "lancedb"), digest(embedder))
    return folder


def functions(uri: str, embedder: str) -> None:
    rng, rows = np.random.default_rng(0), []
    for number in range(150):
        subject = ("queue", "heap", "lock", "socket", "thread", "buffer", "cursor", "parser")[number % 8]
        verb = ("Close", "Open", "Copy", "Merge", "Split", "Reset", "Rotate")[number // 8 % 7]
        kind = "".join("bcdfghjklm"[int(digit)] + "a" for digit in str(number))
        name = f"{subject}.{verb.lower()}{number}"
        text = f"{name}()\n\n{verb} the {subject} of kind {kind}. Raises Error{number} when it is {kind[::-1]}."
        shared = dict.fromkeys(PASSAGE.names, name) | {"corpus": "c", "metadata": '{"kind": "function"}'}
        own = {"text": text, "group": subject, "start": 0, "end": len(text), "n_tokens": 20, "embedder": embedder}
        rows.append(shared | own | {"vector": rng.normal(size=32)})
    store.write(uri, "functions", rows, schema=passage_schema(32), key="passage_id")
    search.create_fulltext(f"{uri}#functions", "text")


def arguments(storage: Path, embedder: Path, *more: str, table: str = "passages") -> list[str]:
    models = [f"embedder={embedder}", f"cross_encoder.model={embedder}", "cross_encoder.max_tokens=32"]
    return [f"storage={storage}", f"index={storage}/lancedb#{table}", *models, "ray.num_cpus=2", *more]


def test_a_reranker_that_helps_is_kept_and_searched_with(storage: Path, cluster: str, embedder: Path) -> None:
    asked = [f"ask.table={storage}/lancedb#questions", "ask.test_share=0.4", "retrieve.mode=text"]
    asked += [f"retrieve.rerank_depth={READ}", *ALL_PASS, *LEARN]
    code, done, log = warm.ask("train_reranker", *arguments(storage, embedder, *asked), cluster=cluster)
    assert code == 0, log[-3000:]
    metrics, outputs = done["metrics"], done["outputs"]
    assert metrics["kept"] == outputs["kept"] == 1 and outputs["verdict"].startswith("kept: on ")
    assert metrics["trained/ndcg_at_10"] > 0.95 > metrics["without/ndcg_at_10"] + 0.1
    assert metrics["gain_over/without_low"] > 0 and outputs["verdict"] in log
    folder = Path(outputs["reranker"])
    left = sorted(path.name for path in folder.parent.iterdir())
    assert left == ["exercises.jsonl", "reranker", "verdict.md"]
    page = read_lineage(folder)
    assert page["kind"] == "reranker" and page["facts"]["index"].startswith(f"{storage}/lancedb#passages@")

    held_out = [json.loads(line) for line in (folder.parent / "exercises.jsonl").read_text().splitlines()]
    held_out = [row for row in held_out if row["split"] == "test"]
    config = RetrieveConfig(mode="text", rerank=str(folder), rerank_depth=READ)
    way = Retriever(f"{storage}/lancedb#passages", embedder, config, reranker=Reranker(folder))
    first = [way.search(row["question"], k=1)[0].passage_id for row in held_out]
    assert sum(found in row["answers"] for found, row in zip(first, held_out, strict=True)) > 0.9 * len(held_out)

    code, again, _ = warm.ask("train_reranker", *arguments(storage, embedder, *asked))
    assert (code, again["run_id"], again["outputs"]) == (0, done["run_id"], outputs)


@pytest.mark.exhaustive
def test_an_adapter_that_does_not_help_enough_is_not_kept(storage: Path, cluster: str, embedder: Path) -> None:
    """Questions are made from the passages, whose vectors mean nothing; a gain of 0.9 is asked for."""
    asked = ["kind=adapter", "ask.test_share=0.5", "min_gain=0.9", "adapter.optim.epochs=2", *ALL_PASS]
    given = arguments(storage, embedder, *asked, table="functions")
    code, done, log = warm.ask("train_reranker", *given, cluster=cluster)
    assert code == 0 and done["status"] == "done", log[-3000:]
    outputs = done["outputs"]
    assert done["metrics"]["kept"] == outputs["kept"] == 0 and outputs["query_adapter"] is None
    assert outputs["verdict"].startswith("not kept: on ") and "lie above 0.9" in outputs["verdict"]
    assert done["metrics"]["steps"] > 0 and done["metrics"]["questions/train"] > 10
    left = sorted(path.name for path in Path(outputs["page"]).parent.iterdir())
    assert left == ["exercises.jsonl", "verdict.md"]  # nothing that could be served by mistake


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (["index={storage}/lancedb#nothing"], "no table 'nothing'"),
        (["index={storage}/nowhere#passages"], "no table 'passages'"),
        (["embedder=/no/such/model"], "no model at /no/such/model"),
        (["ask.table={storage}/lancedb#nothing"], "no table 'nothing'"),
        (["ask.table={storage}/lancedb#passages"], "has no column 'question'"),
        (["ask.table={storage}/lancedb#questions", "ask.test_share=0.4", "retrieve.where=colour = 1"], "where"),
        (["ask.table={storage}/lancedb#questions", "ask.limit=5"], "at least 20 are needed"),
        (["index={storage}/lancedb#empty"], "has no passages"),
        (["cross_encoder.max_tokens=200"], "reads 128 tokens"),
        (["retrieve.rerank=/some/folder"], "retrieve.rerank"),
        (["kind=adapter", "retrieve.mode=text"], "retrieve.mode=text searches no vectors"),
        (["retrieve.query_adapter=/no/such/folder"], "does not exist"),
        (["deepspeed.stage=3"], "use 0 to 2"),
        (["cross_encoder.optim.micro_batch_size=3"], "not a multiple"),
        (["cross_encoder.optim.learning_rat=1"], "did you mean 'learning_rate'"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_2(storage: Path, embedder: Path, change: list[str], says: str) -> None:
    if any("#empty" in one for one in change):
        store.write(str(storage / "lancedb"), "empty", [], schema=passage_schema(32), key="passage_id")
    changes = [one.format(storage=storage) for one in change]
    named = {one.partition("=")[0] for one in changes}
    given = [one for one in arguments(storage, embedder) if one.partition("=")[0] not in named]
    code, line, log = warm.ask("train_reranker", *given, *changes)
    assert code == 2 and says in log and "Traceback" not in log, log[-2000:]
    assert line["status"] == "invalid"
