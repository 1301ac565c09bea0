"""Align a chat model with preferences, by the loss that ``loss.name`` chooses, against itself as it was or is."""

from typing import TYPE_CHECKING, Any

from components.config import Field, ModelRef, TableRef
from components.training.moving_reference import ReferenceConfig
from components.training.preference import PreferenceOptimConfig
from components.training.preference_losses import LossConfig
from components.training.preference_measure import MeasureConfig
from components.training.reference import ScoringConfig
from components.training.settings import TrainingConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class TrainDpo(TrainingConfig):
    """What train_dpo reads from its YAML."""

    model: ModelRef = Field(description="the model to align, which is also the reference: usually the SFT model")
    preferences: TableRef = Field(description="table of pairs, or (kto) of labelled answers; split 'train' is learned")
    where: str | None = Field(None, description="SQL condition on the rows to train on, such as round = 2; none: all")
    loss: LossConfig = Field(LossConfig(), description="the loss of a pair, or of a good or bad answer")
    reference: ReferenceConfig = Field(ReferenceConfig(), description="whether the reference follows the policy")
    scoring: ScoringConfig = Field(ScoringConfig(), description="how the reference is run over the pairs")
    optim: PreferenceOptimConfig = Field(PreferenceOptimConfig(), description="how the weights are updated")
    measure: MeasureConfig = Field(MeasureConfig(), description="what is measured on held-out rows, before and after")


def main(config: TrainDpo, run: "Run") -> "Result":
    """Train and return ``{"adapter", "base"}``, or ``{"model"}`` where all weights were trained."""
    from components.data import store
    from components.data.chat import ChatTemplate
    from components.models import sources
    from components.orchestration.cluster import ray_session
    from components.tracking.run import Result
    from components.training import job, preference, preference_measure, preference_rows, reference
    from components.training.rows import steps_of
    from components.training.settings import Recipe, weight_dtype

    model, recipe, loss = sources.resolve(config.model, run.cache), Recipe.of(config), config.loss
    template, table = ChatTemplate.from_folder(model), store.pin(config.preferences)
    run.log_dataset("preferences", table, "train")
    limits: dict[str, Any] = {"max_tokens": config.max_tokens, "seed": config.seed}
    data = preference_rows.read(table, template, loss, size=config.eval_rows, where=config.where, **limits)
    steps = steps_of(len(data.training.rows), recipe.optim.epochs, recipe.optim.batch_size)
    config.reference.check_steps(steps)
    job.check_adapter(recipe, model, steps)  # before the reference is scored
    digest, dtype = sources.digest(model, run.cache), weight_dtype(config.optim.dtype, config.scale.gpu)
    which = reference.Reference(model, digest, template.digest, dtype, config.adapter.quantizes)
    scoring = config.scoring.beside(config.scale.gpu)
    kept = None if config.reference.moves else reference.Cache(f"{config.storage}/lancedb", which, scoring)
    facts: dict[str, Any] = {"base_digest": digest, "template_digest": template.digest, "table": table}
    payload = {"loss": loss.model_dump(), "reference": config.reference.model_dump()}
    with ray_session(config.ray, config.storage):
        training, evaluation, _ = preference_rows.prepare(data, loss, kept.look_up if kept else None, **limits)
        figures = job.train(
            preference.preference_loop,
            recipe,
            model=model,
            train_rows=training,
            eval_rows=evaluation,
            run_dir=run.dir,
            identity={**facts, "loss": repr(loss), "reference": repr(config.reference)},
            payload={"run": run.handle(), "paired": data.paired, **payload},
        )
        if data.evaluation:
            how = preference_measure.Measured(model, template, job.trained_folder(run.dir), recipe, dtype)
            figures |= preference_measure.on_cluster(how, data.evaluation.rows, data.paired, config.measure)
    facts |= {"adapter": config.adapter.model_dump(mode="json"), "where": config.where, **payload}
    figures |= {"rows/train": len(training.rows), "rows/dropped": training.dropped, **(kept.figures if kept else {})}
    return Result(job.publish(run, recipe, model, table, facts), figures)


def plan(config: TrainDpo) -> dict[str, Any]:
    """Return steps, workers and memory, as far as they can be known before anything starts."""
    from components.training.estimate import estimate

    return estimate(config, config.model, config.preferences, sides=2)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(TrainDpo, main)
