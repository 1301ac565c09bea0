"""An index to train on: its search as it is, exercises as trainings read them, and the search with what was trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError
from components.models.query_adapter import Examples
from components.retrieval import exercises as asking
from components.retrieval import gain
from components.retrieval.exercises import AskConfig, Exercise
from components.retrieval.negatives import NegativesConfig
from components.retrieval.rerank import Reranker, as_read
from components.retrieval.retrieve import Retriever
from components.retrieval.settings import RetrieveConfig


def check(retrieve: RetrieveConfig, kind: str) -> None:
    """Refuse a search that already has what is to be trained, or cannot use it.

    Raises:
        UserError: with the key.
    """
    if retrieve.rerank is not None:
        raise UserError("retrieve.rerank: what is trained is compared with the search without a reranker; leave it out")
    if retrieve.mode == "communities":
        raise UserError("retrieve.mode=communities finds summaries, which answer no question here: choose hybrid")
    if kind == "adapter" and retrieve.query_adapter is not None:
        raise UserError("retrieve.query_adapter: an adapter is trained on vectors without one; leave it out")
    if kind == "adapter" and not retrieve.asks_vectors():
        raise UserError("retrieve.mode=text searches no vectors, which an adapter maps: choose hybrid or dense")


@dataclass(frozen=True)
class Practice:
    """An opened index with its exercises."""

    base: Retriever  # hybrid, without further stages
    way: RetrieveConfig  # the search that is to become better
    exercises: list[Exercise]

    @property
    def index(self) -> str:
        """The pinned reference of the index."""
        return self.base.index

    @property
    def training(self) -> list[Exercise]:
        """The exercises that are trained on."""
        return [one for one in self.exercises if one.split == "train"]

    def texts(self) -> list[dict[str, Any]]:
        """Return ``{"question", "texts", "labels"}`` of each training question; answers come first, with label 1.0."""
        used = {key for one in self.training for key in _passages(one)}
        rows = asking.lookup(self.index, used, ["title", "text"])
        read = {key: as_read(row["title"], row["text"]) for key, row in rows.items()}
        return [
            {"question": one.question, "texts": [read[key] for key in _passages(one)], "labels": _labels(one)}
            for one in self.training
        ]

    def vectors(self) -> Examples:
        """Return the training questions' vectors, as the index's embedder makes them, and their passages'."""
        import numpy as np

        training = self.training
        found = asking.lookup(self.index, {key for one in training for key in _passages(one)}, ["vector"])
        place = {key: number for number, key in enumerate(sorted(found))}
        rows = [
            {"query": number, "passages": [place[key] for key in _passages(one)], "labels": _labels(one)}
            for number, one in enumerate(training)
        ]
        queries = np.asarray([self.base.embed_query(one.question) for one in training], dtype=np.float32)
        return Examples(rows, queries, np.asarray([found[key]["vector"] for key in place], dtype=np.float32))

    def judge(self, trained: dict[str, Path], start: Path | None, k: int, min_gain: float, seed: int) -> gain.Verdict:
        """Return whether the search is better with what was trained.

        Args:
            trained: key of a search (rerank or query_adapter) → folder.
            start: the reranker that training began with, which has to be surpassed, too.
        """
        ways = {gain.WITHOUT: self.base.with_config(self.way)}
        if start is not None:
            ways[gain.START] = self._with({"rerank": start})
        ways[gain.TRAINED] = self._with(trained)
        return gain.judge(ways, self.exercises, k, min_gain, seed)

    def _with(self, folders: dict[str, Path]) -> Retriever:
        config = self.way.model_copy(update={key: str(folder) for key, folder in folders.items()})
        return self.base.with_config(config, Reranker(folders["rerank"]) if "rerank" in folders else None)


def prepare(
    index: str,
    embedder: Path,
    retrieve: RetrieveConfig,
    ask: AskConfig,
    negatives: NegativesConfig,
    *,
    run_dir: Path,
    seed: int,
) -> Practice:
    """Open an index, and gather its exercises unless this run has them already.

    Raises:
        UserError: there is no such index, it was made by another embedder, or it cannot be asked about.
    """
    base = Retriever(index, embedder, RetrieveConfig())
    way = retrieve.model_copy(update={"expand": "none"})  # what is widened is no longer the passage that was asked for
    searching = base.with_config(way)
    made = asking.remembered(run_dir / asking.FILE, lambda: asking.gather(base, searching, ask, negatives, seed))
    return Practice(base, way, made)


def _passages(one: Exercise) -> tuple[str, ...]:
    return (*one.answers, *one.negatives)


def _labels(one: Exercise) -> list[float]:
    return [1.0] * len(one.answers) + [0.0] * len(one.negatives)
