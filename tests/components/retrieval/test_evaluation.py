"""An evaluation end to end: a small collection is embedded, searched in every usual way, and told about."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.config import UserError
from components.data import store
from components.retrieval.evaluation import RetrievalEvaluation, run_evaluation

DOCUMENTS = {
    "bread": "Sourdough needs flour, water, salt and a starter that has been fed.",
    "ice": "A glacier is a river of ice that flows a few metres in a year.",
    "light": "The lighthouse keeper climbs two hundred steps every evening to light the lamp.",
    "bees": "Bees dance to tell each other where they have found flowers.",
    "tide": "The pull of the moon raises the sea twice a day.",
    "wool": "Sheep are shorn in spring, and their wool is washed and spun.",
}
ASKED = {
    "how is a starter for bread kept alive": "bread",
    "how fast do glaciers move": "ice",
    "who lights the lamp of the lighthouse": "light",
    "how do bees talk about flowers": "bees",
    "why does the sea rise": "tide",
    "when are sheep shorn": "wool",
    "what is made of flour and water": "bread",
    "where do bees find flowers": "bees",
}


@pytest.fixture
def collection(tmp_path: Path) -> Path:
    folder = tmp_path / "collection"
    folder.mkdir()
    rows = {
        "documents": [{"id": key, "title": key, "text": text} for key, text in DOCUMENTS.items()],
        "queries": [{"id": str(n), "text": text} for n, text in enumerate(ASKED)],
        "qrels": [{"query_id": str(n), "doc_id": key, "relevance": 2} for n, key in enumerate(ASKED.values())],
    }
    for name, lines in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def _run(tmp_path: Path) -> SimpleNamespace:
    kept: list[Path] = []
    return SimpleNamespace(dir=tmp_path, cache=tmp_path / "cache", log_artifact=kept.append, kept=kept)


def test_a_collection_is_searched_in_every_usual_way(collection: Path, tmp_path: Path, minilm: Path) -> None:
    config = RetrievalEvaluation(collection=str(collection), embedder=str(minilm))
    run = _run(tmp_path)
    outputs, metrics = run_evaluation(config, run, seed=0)
    assert metrics["dense/mrr_at_10"] > 0.9 and 0.5 < metrics["text/recall_at_10"] <= 1.0
    assert metrics["hybrid/p95_ms"] > 0 and "weighted/held_out/ndcg_at_10" in metrics
    assert f"gain_over/{outputs['mode']}" not in metrics
    rows = store.read(outputs["index"])
    assert {row["doc_id"]: row["text"] for row in rows}["bread"] == f"bread\n{DOCUMENTS['bread']}"
    page = Path(outputs["page"]).read_text()
    assert run.kept == [Path(outputs["page"])] and "| dense |" in page and "8 questions" in page

    asked_again = RetrievalEvaluation(collection=str(collection), index=outputs["index"], embedder=str(minilm), limit=6)
    again, _ = run_evaluation(asked_again, run, seed=0)
    assert again["index"] == outputs["index"]


def test_what_is_missing_is_said(tmp_path: Path, minilm: Path) -> None:
    with pytest.raises(UserError, match="nothing to search"):
        run_evaluation(RetrievalEvaluation(embedder=str(minilm)), _run(tmp_path), seed=0)
    with pytest.raises(UserError, match="no graded questions"):
        run_evaluation(RetrievalEvaluation(index="x#y", embedder=str(minilm)), _run(tmp_path), seed=0)
