"""Fine-tune a chat model on demonstrations: only their completions carry loss."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.config import Field, ModelRef, TableRef, WorkflowConfig
from components.models.adapters import AdapterConfig
from components.training.deepspeed import DeepSpeedConfig
from components.training.settings import OptimConfig, SaveConfig, ScaleConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class TrainSft(WorkflowConfig):
    """What train_sft reads from its YAML."""

    model: ModelRef = Field(description="the chat model to start from")
    demonstrations: TableRef = Field(description="table of prompts and completions; only split 'train' is trained on")
    max_tokens: int = Field(1024, ge=8, description="longer rows are dropped whole and counted")
    eval_rows: int = Field(32, ge=0, description="rows of split 'test' whose loss is measured at the end")
    adapter: AdapterConfig = Field(AdapterConfig(), description="what is trained")
    optim: OptimConfig = Field(OptimConfig(), description="how the weights are updated")
    deepspeed: DeepSpeedConfig = Field(DeepSpeedConfig(), description="how training is sharded")
    scale: ScaleConfig = Field(ScaleConfig(), description="workers")
    save: SaveConfig = Field(SaveConfig(), description="checkpoints")


def main(config: TrainSft, run: "Run") -> "Result":
    """Train and return ``{"adapter", "base"}``, or ``{"model"}`` where all weights were trained."""
    from components.data import store
    from components.data.chat import ChatTemplate
    from components.models import sources
    from components.orchestration.cluster import ray_session
    from components.tracking.run import Result
    from components.training import job, sft
    from components.training.rows import read_sample, read_split

    model = sources.resolve(config.model, run.cache)
    template = ChatTemplate.from_folder(model)
    table = store.pin(config.demonstrations)
    run.log_dataset("demonstrations", table, "train")
    convert = sft.demonstration_ids(template)
    training = read_split(table, "train", convert, max_tokens=config.max_tokens)
    evaluation = read_sample(
        table, "test", convert, max_tokens=config.max_tokens, size=config.eval_rows, seed=config.seed
    )
    recipe = job.Recipe(config.adapter, config.optim, config.deepspeed, config.scale, config.save, config.seed)
    facts: dict[str, Any] = {
        "base_digest": sources.digest(model, run.cache),
        "template_digest": template.digest,
        "table": table,
    }
    with ray_session(config.ray):
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
    from components.training import estimate, job

    recipe = job.Recipe(config.adapter, config.optim, config.deepspeed, config.scale, config.save, config.seed)
    sizes = {"max_tokens": config.max_tokens, "sides": 1}
    return estimate.estimate(config.model, config.demonstrations, Path(config.storage), recipe, **sizes)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(TrainSft, main)
