"""Align a chat model with a reward by PPO (or RLOO, GRPO): answers drawn by vLLM, trained on with DeepSpeed."""

from typing import TYPE_CHECKING, Any

from components.config import Field, InputPath, ModelRef, TableRef, UserError, WorkflowConfig
from components.models.rewards import CombineConfig
from components.training.ppo.sections import Sections
from components.training.settings import ScaleConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class TrainPpo(WorkflowConfig, Sections):
    """What train_ppo reads from its YAML."""

    model: ModelRef = Field(description="the model to align, which is also the reference: usually the SFT model")
    prompts: TableRef = Field(description="table with prompts (of questions, pairs …); split 'train' is answered")
    rewards: list[InputPath] = Field([], description="reward models, as train_reward makes them")
    combine: CombineConfig = Field(CombineConfig(), description="how several rewards make one")
    eval_rows: int = Field(32, ge=0, description="prompts of split 'test' that are answered, and never trained on")
    scale: ScaleConfig = Field(ScaleConfig(), description="how many workers train, and on what")


def main(config: TrainPpo, run: "Run") -> "Result":
    """Train and return ``{"adapter", "base"}``, or ``{"model"}`` where all weights were trained, and ``samples``."""
    from components.data.chat import ChatTemplate
    from components.models import sources
    from components.orchestration.cluster import ray_session
    from components.tracking.run import Result
    from components.training.ppo import job

    _check(config)
    model = sources.resolve(config.model, run.cache)
    template = ChatTemplate.from_folder(model)
    data = job.read_prompts(config, template, run)
    digest = sources.digest(model, run.cache)
    facts: dict[str, Any] = {"base_digest": digest, "template_digest": template.digest, "table": data.table}
    facts |= job.check_rewards(config, template, digest)
    with ray_session(config.ray, config.storage):
        figures = job.train(config, run, model, data, facts)
    outputs = job.publish(config, run, model, data, facts)
    return Result(outputs, {**figures, **data.figures})


def plan(config: TrainPpo) -> dict[str, Any]:
    """Return samples, steps, engines and what is on the trunk."""
    _check(config)
    from components import storage
    from components.training.ppo.estimate import describe

    rollout, update = config.rollout, config.update
    return {
        "samples": f"{update.iterations} iterations x {rollout.prompts} prompts x {rollout.samples} answers",
        "optimizer steps": update.iterations * update.epochs * update.minibatches,
        "engines": f"{rollout.engine.engines} vLLM, up to {rollout.max_new_tokens} new tokens",
        "models": "one frozen trunk with adapters" if config.adapter.name != "none" else "policy, critic, reference",
        "workers": f"{config.scale.workers} with {'a GPU' if config.scale.gpu else 'no GPU'}",
        "memory": describe(config, storage.folder(config.storage) / "cache"),
        "a reward that is gamed": config.blind or f"is looked for every {config.guards.eval_every} iterations",
    }


def _check(config: TrainPpo) -> None:
    if config.scale.min_workers:
        raise UserError("scale.min_workers: PPO's workers are as many at the end as at the start, leave it out")
    if not config.rewards and not config.reward.judge:
        raise UserError("there is no reward: give rewards, or a weight to the programmatic judge (reward.judge=1)")
    if config.guards.rewards and not config.eval_rows:
        raise UserError("guards.rewards are asked about held-out prompts: set eval_rows above 0")
    config.check(config.scale.workers)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(TrainPpo, main)
