"""Answer held-out questions and score held-out pairs with a model, or measure reasoning; 95 % bootstrap intervals."""

from typing import TYPE_CHECKING, Any, Literal

from components.config import Field, ModelRef, TableRef, UserError, WorkflowConfig
from components.models.engine import EngineConfig, Sampling
from components.serving.reasoning_exam import ReasoningTask

if TYPE_CHECKING:
    from pathlib import Path

    from components.data.chat import ChatTemplate
    from components.tracking.run import Result, Run


class Evaluate(WorkflowConfig):
    """Which model, on what."""

    what: Literal["answers", "reasoning"] = Field("answers", description="answers and pairs, or reasoning strategies")
    model: ModelRef = Field(description="the model as it is served: full, merged or quantized")
    name: str = Field("model", description="what reports call it: base, sft, dpo, quantized, …")
    questions: TableRef | None = Field(None, description="questions table; its test split is answered")
    preferences: TableRef | None = Field(None, description="preferences table; its test pairs are scored")
    limit: int | None = Field(None, ge=1, description="questions to answer; none takes all")
    pair_limit: int | None = Field(None, ge=1, description="pairs to score; none takes all")
    max_new_tokens: int = Field(48, ge=1, description="longest answer, in tokens")
    engine: EngineConfig = Field(EngineConfig(), description="the engines that answer")
    reasoning: ReasoningTask = Field(ReasoningTask(), description="which strategies are served and asked what")


def main(config: Evaluate, run: "Run") -> "Result":
    """Return the metrics, and the file with every answer and its judgement."""
    if config.what == "reasoning":
        return reason(config, run)
    from components.data.chat import ChatTemplate
    from components.models import sources
    from components.orchestration.cluster import ray_session
    from components.tracking.run import Result

    if config.questions is None and config.preferences is None:
        raise UserError("there is nothing to evaluate: give questions, preferences or both")
    template = ChatTemplate.from_folder(model := sources.resolve(config.model, run.cache))
    evaluation: dict[str, dict[str, float]] = {}
    outputs: dict[str, Any] = {"name": config.name, "evaluation": evaluation}
    if config.preferences:
        evaluation.update(score_pairs(config, run, model, template))
    if config.questions:
        with ray_session(config.ray):
            metrics, outputs["answers"] = answer(config, run, model, template)
        evaluation.update(metrics)
    return Result(outputs, {name: values["mean"] for name, values in evaluation.items()})


def answer(config: Evaluate, run: "Run", model: "Path", template: "ChatTemplate") -> tuple[dict, str]:
    """Greedy answers to the test questions, judged; written to a file as well."""
    from components.data import evaluation, store
    from components.models import engine

    table = store.pin(str(config.questions))
    run.log_dataset("questions", table, "evaluation")
    questions = evaluation.held_out(table, config.limit)
    prompts = [{"prompt_ids": template.prompt_ids(question["prompt"])} for question in questions]
    answers = engine.sample(prompts, model, Sampling(max_new_tokens=config.max_new_tokens), config.engine)
    path = evaluation.write_answers(run.dir / "answers.jsonl", questions, answers)
    run.log_artifact(path)
    return evaluation.evaluate_answers(questions, answers, seed=config.seed), str(path)


def score_pairs(config: Evaluate, run: "Run", model: "Path", template: "ChatTemplate") -> dict:
    """The share of held-out pairs that the model ranks as the judge (or the person) did."""
    from components.data import evaluation, store
    from components.models import prefix_scores

    table = store.pin(str(config.preferences))
    run.log_dataset("preferences", table, "evaluation")
    pairs = evaluation.held_out(table, config.pair_limit)
    coded = [template.pair(pair["prompt"], pair["chosen"], pair["rejected"]) for pair in pairs]
    prompts, answers = [pair.prompt_ids for pair in coded], [(pair.chosen_ids, pair.rejected_ids) for pair in coded]
    return evaluation.evaluate_pairs(pairs, prefix_scores.mean_logprobs(model, prompts, answers), seed=config.seed)


def reason(config: Evaluate, run: "Run") -> "Result":
    """Serve the strategies and ask each the questions: their figures, the table that `auto` reads, and a plot."""
    from components.orchestration.cluster import ray_session
    from components.serving.reasoning_sitting import sit

    with ray_session(config.ray, config.storage):
        return sit(config.reasoning, config.model, config.storage, run, name=config.name, seed=config.seed)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(Evaluate, main, leading="what")
