"""Align a chat model with preference pairs by direct preference optimization, against itself as the reference."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import Field, ModelRef, TableRef, WorkflowConfig
from components.models.adapters import AdapterConfig
from components.training.deepspeed import DeepSpeedConfig
from components.training.preference import LossConfig, PreferenceOptimConfig
from components.training.reference import ScoringConfig
from components.training.settings import SaveConfig, ScaleConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class TrainDpo(WorkflowConfig):
    """What train_dpo reads from its YAML."""

    model: ModelRef = Field(description="the model to align, which is also the reference: usually the SFT model")
    preferences: TableRef = Field(description="table of preference pairs; only split 'train' is trained on")
    max_tokens: int = Field(1024, ge=8, description="pairs with a longer side are dropped whole and counted")
    eval_rows: int = Field(32, ge=0, description="pairs of split 'test' that are measured at the end")
    loss: LossConfig = Field(LossConfig(), description="the loss of a pair")
    scoring: ScoringConfig = Field(ScoringConfig(), description="how the reference is run over the pairs")
    adapter: AdapterConfig = Field(AdapterConfig(), description="what is trained")
    optim: PreferenceOptimConfig = Field(PreferenceOptimConfig(), description="how the weights are updated")
    deepspeed: DeepSpeedConfig = Field(DeepSpeedConfig(), description="how training is sharded")
    scale: ScaleConfig = Field(ScaleConfig(), description="workers")
    save: SaveConfig = Field(SaveConfig(), description="checkpoints")


def main(config: TrainDpo, run: "Run") -> "Result":
    """Train and return ``{"adapter", "base"}``, or ``{"model"}`` where all weights were trained."""
    from components.data import store
    from components.data.chat import ChatTemplate
    from components.models import sources
    from components.orchestration.cluster import ray_session
    from components.tracking.run import Result
    from components.training import job, preference, reference
    from components.training.rows import read_sample, read_split
    from components.training.settings import weight_dtype

    model = sources.resolve(config.model, run.cache)
    template = ChatTemplate.from_folder(model)
    table = store.pin(config.preferences)
    run.log_dataset("preferences", table, "train")
    convert = reference.pair_ids(template)
    training = read_split(table, "train", convert, max_tokens=config.max_tokens)
    evaluation = read_sample(
        table, "test", convert, max_tokens=config.max_tokens, size=config.eval_rows, seed=config.seed
    )
    digest = sources.digest(model, run.cache)
    which = reference.Reference(model, digest, template.digest, weight_dtype(config.optim.dtype, config.scale.gpu))
    facts: dict[str, Any] = {"base_digest": digest, "template_digest": template.digest, "table": table}
    recipe = job.Recipe(config.adapter, config.optim, config.deepspeed, config.scale, config.save, config.seed)
    uri = str(Path(config.storage) / "lancedb")
    with ray_session(config.ray):
        both = training.rows + (evaluation.rows if evaluation else [])
        logprobs, computed = reference.reference_logprobs(uri, both, which, config.scoring)
        figures = job.train(
            preference.dpo_loop,
            recipe,
            model=model,
            train_rows=preference.with_reference(training, logprobs),
            eval_rows=evaluation and preference.with_reference(evaluation, logprobs),
            run_dir=run.dir,
            identity={**facts, "loss": repr(config.loss)},
            payload={"run": run.handle(), "loss": config.loss.model_dump()},
        )
    facts |= {"adapter": config.adapter.model_dump(mode="json"), "loss": config.loss.model_dump(mode="json")}
    outputs = job.publish(run, recipe, model, table, facts)
    counts = {
        "rows/train": len(training.rows),
        "rows/dropped": training.dropped,
        "rows/reference_computed": computed,
    }
    return Result(outputs, {**figures, **counts})


def plan(config: TrainDpo) -> dict[str, Any]:
    """Return steps, workers and memory, as far as they can be known before anything starts."""
    from components.training import estimate, job

    recipe = job.Recipe(config.adapter, config.optim, config.deepspeed, config.scale, config.save, config.seed)
    sizes = {"max_tokens": config.max_tokens, "sides": 2}
    return estimate.estimate(config.model, config.preferences, Path(config.storage), recipe, **sizes)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(TrainDpo, main)
