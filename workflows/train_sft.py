"""Fine-tune a chat model on demonstrations: only their completions carry loss."""

from typing import TYPE_CHECKING, Any, ClassVar

from components.config import Field, ModelRef, TableRef
from components.training.settings import TrainingConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class TrainSft(TrainingConfig):
    """What train_sft reads from its YAML."""

    drops_out: ClassVar[bool] = True
    model: ModelRef = Field(description="the chat model to start from")
    demonstrations: TableRef = Field(description="table of prompts and completions; only split 'train' is trained on")


def main(config: TrainSft, run: "Run") -> "Result":
    """Train and return ``{"adapter", "base"}``, or ``{"model"}`` where all weights were trained."""
    from components.data import store
    from components.data.chat import ChatTemplate
    from components.models import sources
    from components.orchestration.cluster import ray_session
    from components.tracking.run import Result
    from components.training import job, sft
    from components.training.rows import read_sample, read_split
    from components.training.settings import Recipe

    recipe, model = Recipe.of(config), sources.resolve(config.model, run.cache)
    template = ChatTemplate.from_folder(model)
    table = store.pin(config.demonstrations)
    run.log_dataset("demonstrations", table, "train")
    convert = sft.demonstration_ids(template)
    limits: dict[str, Any] = {"columns": sft.COLUMNS, "max_tokens": config.max_tokens}
    training = read_split(table, "train", convert, **limits)
    evaluation = read_sample(table, "test", convert, size=config.eval_rows, seed=config.seed, **limits)
    facts: dict[str, Any] = {
        "base_digest": sources.digest(model, run.cache),
        "template_digest": template.digest,
        "table": table,
    }
    with ray_session(config.ray, config.storage):
        figures = job.train(
            sft.sft_loop,
            recipe,
            model=model,
            train_rows=training,
            eval_rows=evaluation,
            run_dir=run.dir,
            identity=facts,
            payload={"run": run.handle()},
        )
    facts["adapter"] = config.adapter.model_dump(mode="json")
    outputs = job.publish(run, recipe, model, table, facts)
    return Result(outputs, {**figures, "rows/train": len(training.rows), "rows/dropped": training.dropped})


def plan(config: TrainSft) -> dict[str, Any]:
    """Return steps, workers and memory, as far as they can be known before anything starts."""
    from components.training.estimate import estimate

    return estimate(config, config.model, config.demonstrations, sides=1)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(TrainSft, main)
