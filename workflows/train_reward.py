"""Train a reward model on preference pairs or labelled steps; a health card says whether PPO may trust it."""

from typing import TYPE_CHECKING, Any

from pydantic import model_validator

from components.config import Field, ModelRef, TableRef, UserError
from components.data.votes import VotesConfig
from components.models.rewards import CombineConfig
from components.training.health_card import HealthConfig
from components.training.reward import RewardLossConfig, RewardOptimConfig
from components.training.settings import TrainingConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class TrainReward(TrainingConfig):
    """Give `preferences` for a reward of whole answers; with `steps` it is of each step (a process reward model)."""

    model: ModelRef = Field(description="the chat model whose trunk the reward heads are put on: usually the SFT model")
    preferences: TableRef | None = Field(None, description="table of preference pairs; with steps it is only measured")
    steps: TableRef | None = Field(None, description="table of labelled steps, as build_steps makes it")
    votes: VotesConfig = Field(VotesConfig(), description="how several annotators' votes on a pair become one label")
    loss: RewardLossConfig = Field(RewardLossConfig(), description="heads, margin and centering")
    optim: RewardOptimConfig = Field(RewardOptimConfig(), description="how the weights are updated")
    combine: CombineConfig = Field(CombineConfig(), description="how several heads make one reward")
    eval_rows: int = Field(60, ge=2, description="rows of split 'test' that the health card is made from")
    health: HealthConfig = Field(HealthConfig(), description="what the model must show to be good enough for PPO")

    @model_validator(mode="after")
    def _margins_are_of_pairs(self) -> "TrainReward":
        if self.steps and self.loss.margin:
            raise UserError(
                "loss.margin is a gap between the two answers of a pair; with steps there are none: drop it"
            )
        return self


def main(config: TrainReward, run: "Run") -> "Result":
    """Train, measure on held-out rows, and return ``{"reward", "card"}``."""
    from components.data.chat import ChatTemplate
    from components.models import sources
    from components.models.rewards import RewardInfo
    from components.orchestration.card import log_card
    from components.orchestration.cluster import ray_session
    from components.tracking.run import Result
    from components.training import job, reward, reward_measure, reward_rows
    from components.training.settings import Recipe

    recipe, model = Recipe.of(config), sources.resolve(config.model, run.cache)
    template = ChatTemplate.from_folder(model)
    how = reward_rows.HowToRead(config.votes, config.loss, config.max_tokens, config.eval_rows, config.seed)
    data = reward_rows.read(config.preferences, config.steps, template, run, how=how)
    digest, heads = sources.digest(model, run.cache), config.loss.heads
    facts: dict[str, Any] = {"base_digest": digest, "template_digest": template.digest, "table": data.table}
    with ray_session(config.ray, config.storage):
        figures = job.train(
            reward.reward_loop,
            recipe,
            model=model,
            train_rows=data.training,
            eval_rows=None,
            run_dir=run.dir,
            identity={**facts, "loss": repr(config.loss)},
            payload={"run": run.handle(), "loss": config.loss.model_dump(), "kind": data.kind},
        )
        info = RewardInfo.unscaled(data.kind, heads, str(model), digest, template.digest)
        card, found = reward_measure.on_cluster(
            job.trained_folder(run.dir), model, data, config.combine, config.health, info, scale=config.scale
        )
    facts |= {"kind": data.kind, "loss": config.loss.model_dump(mode="json"), "measured": found}
    outputs = job.publish(run, recipe, model, data.table, facts, name="reward")
    if card is not None:
        outputs |= log_card(run, f"Reward model on {model.name}", card.as_dict())
    return Result(outputs, {**figures, **found, **data.figures})


def plan(config: TrainReward) -> dict[str, Any]:
    """Return steps, workers and memory, as far as they can be known before anything starts."""
    from components.training.estimate import estimate

    if not (table := config.steps or config.preferences):
        raise UserError("there is nothing to learn from: give preferences, or steps for a reward of each step")
    return estimate(config, config.model, table, sides=1 if config.steps else 2)


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(TrainReward, main)
