"""Measure answers and pairs, answers over an index, reasoning, ways of searching, or injections; with intervals."""

from typing import TYPE_CHECKING, Any, Literal

from components.config import Field, ModelRef, TableRef, UserError, WorkflowConfig
from components.models.engine import EngineConfig
from components.retrieval.evaluation import RetrievalEvaluation
from components.retrieval.injection_evaluation import InjectionEvaluation
from components.retrieval.rag_evaluation import RagEvaluation
from components.serving.reasoning_exam import ReasoningTask

if TYPE_CHECKING:
    from components.tracking.run import Result, Run
    from components.training.held_out import HeldOut


class Evaluate(WorkflowConfig):
    """Which model, on what."""

    what: Literal["answers", "rag", "reasoning", "retrieval", "injections"] = Field(
        "answers",
        description="answers and pairs, answers over an index, reasoning strategies, ways of searching, or orders that "
        "passages give",
    )
    model: ModelRef | None = Field(None, description="the model as it is served: full, merged or quantized")
    name: str = Field("model", description="what reports call it: base, sft, dpo, quantized, …")
    questions: TableRef | None = Field(None, description="questions table; its test split is answered")
    preferences: TableRef | None = Field(None, description="preferences table; its test pairs are scored")
    limit: int | None = Field(None, ge=1, description="questions to answer; none takes all")
    pair_limit: int | None = Field(None, ge=1, description="pairs to score; none takes all")
    max_new_tokens: int = Field(48, ge=1, description="longest answer, in tokens")
    engine: EngineConfig = Field(EngineConfig(), description="the engines that answer")
    retrieval: RetrievalEvaluation = Field(RetrievalEvaluation(), description="what is searched, and in which ways")
    rag: RagEvaluation = Field(RagEvaluation(), description="what is asked of which index")
    injections: InjectionEvaluation = Field(InjectionEvaluation(), description="what is asked over such passages")
    reasoning: ReasoningTask = Field(ReasoningTask(), description="which strategies are served and asked what")


def main(config: Evaluate, run: "Run") -> "Result":
    """Return the metrics, and the file with every answer and its judgement."""
    from components.data.chat import ChatTemplate
    from components.models import sources
    from components.orchestration.cluster import ray_session
    from components.retrieval import evaluation, injection_evaluation, rag_evaluation
    from components.serving.reasoning_sitting import sit
    from components.tracking.run import Result
    from components.training.held_out import HeldOut

    if config.what == "retrieval":
        return Result(*evaluation.run_evaluation(config.retrieval, run, config.seed))
    if config.model is None:
        raise UserError("there is no model to evaluate: give model=…")
    if config.what == "reasoning":
        with ray_session(config.ray, config.storage):
            return sit(config.reasoning, config.model, config.storage, run, name=config.name, seed=config.seed)
    template = ChatTemplate.from_folder(model := sources.resolve(config.model, run.cache))
    over_passages: dict[str, Any] = {"rag": rag_evaluation, "injections": injection_evaluation}
    if measured := over_passages.get(config.what):
        asked = (getattr(config, config.what), run, template, model, config.engine, config.seed)
        with ray_session(config.ray, config.storage):
            return Result(*measured.run_evaluation(*asked))
    return answers(config, HeldOut(model, template, run, config.seed))


def answers(config: Evaluate, held_out: "HeldOut") -> "Result":
    """Rank pairs and answer questions, whichever are given."""
    from components.models.engine import Sampling
    from components.orchestration.cluster import ray_session
    from components.tracking.run import Result

    if config.questions is None and config.preferences is None:
        raise UserError("there is nothing to evaluate: give questions, preferences or both")
    evaluation: dict[str, dict[str, float]] = {}
    outputs: dict[str, Any] = {"name": config.name, "evaluation": evaluation}
    if config.preferences:
        evaluation.update(held_out.rank(config.preferences, config.pair_limit))
    if config.questions:
        sampling = Sampling(max_new_tokens=config.max_new_tokens)
        with ray_session(config.ray, config.storage):
            metrics, path = held_out.answer(config.questions, sampling, config.engine, config.limit)
        outputs["answers"] = str(path)
        evaluation.update(metrics)
    return Result(outputs, {name: values["mean"] for name, values in evaluation.items()})


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(Evaluate, main, leading="what")
