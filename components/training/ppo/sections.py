"""The sections of a PPO run that a worker needs; the workflow's configuration has them, too."""

from components.config import Config, Field, UserError
from components.models.adapters import AdapterConfig, check_on_shared_trunk
from components.training.deepspeed import DeepSpeedConfig
from components.training.ppo.settings import (
    AdvantageConfig,
    ClipConfig,
    GuardConfig,
    KlConfig,
    PpoOptimConfig,
    RewardShape,
    RolloutConfig,
    UpdateConfig,
)
from components.training.settings import SaveConfig


class Sections(Config):
    """How PPO trains."""

    adapter: AdapterConfig = Field(AdapterConfig(), description="lora: all models share one trunk; none: each its own")
    max_prompt_tokens: int = Field(768, ge=8, description="longer prompts are dropped and counted")
    rollout: RolloutConfig = Field(RolloutConfig(), description="how answers are drawn")
    reward: RewardShape = Field(RewardShape(), description="what an answer is worth")
    advantage: AdvantageConfig = Field(AdvantageConfig(), description="how rewards become advantages")
    kl: KlConfig = Field(KlConfig(), description="how the policy is held to where it started")
    clip: ClipConfig = Field(ClipConfig(), description="how far one iteration may move the models")
    update: UpdateConfig = Field(UpdateConfig(), description="how an iteration's answers are trained on")
    optim: PpoOptimConfig = Field(PpoOptimConfig(), description="how the weights are updated")
    deepspeed: DeepSpeedConfig = Field(DeepSpeedConfig(), description="how training is sharded")
    guards: GuardConfig = Field(GuardConfig(), description="what stops a run")
    save: SaveConfig = Field(SaveConfig(every=2), description="when checkpoints are written, in iterations")

    def check(self, workers: int) -> None:
        """Refuse what cannot be done.

        Raises:
            UserError: naming the keys to change.
        """
        prompts, count = self.rollout.prompts, self.update.minibatches
        if prompts % (workers * count):
            raise UserError(
                f"rollout.prompts {prompts} is not a multiple of scale.workers {workers} x update.minibatches {count}"
            )
        if self.advantage.name != "gae" and self.rollout.samples < 2:
            raise UserError(f"advantage.name={self.advantage.name} compares answers: set rollout.samples to 2 or more")
        check_on_shared_trunk(self.adapter)
        if self.adapter.dropout:
            raise UserError(
                "adapter.dropout makes a policy differ from itself, so no ratio would start at 1: set it to 0"
            )
        if self.kl.place == "loss" and self.kl.estimator == "k1":
            raise UserError(
                "kl.estimator=k1 has a gradient of 0 in the mean where kl.place=loss, so it holds nothing: use k2 or k3"
            )
        if self.kl.target and not self.kl.coefficient:
            raise UserError("kl.coefficient=0 stays 0 however far the KL is from kl.target: start above 0")
        if self.advantage.name != "gae" and self.update.critic_warmup:
            raise UserError(f"update.critic_warmup: advantage.name={self.advantage.name} has no critic, set it to 0")
        if self.update.critic_warmup >= self.update.iterations:
            raise UserError(
                f"update.critic_warmup {self.update.critic_warmup} leaves none of update.iterations "
                f"{self.update.iterations} to the policy: lower it, or raise the iterations"
            )
        if self.rollout.engine.engines > workers:
            raise UserError(
                f"each of scale.workers {workers} asks one engine, so that of rollout.engine.engines "
                f"{self.rollout.engine.engines} some would stand idle: lower it"
            )
        if self.deepspeed.stage == 3:
            raise UserError(
                "PPO hands whole weights to its engines, which ZeRO-3 does not have: use deepspeed.stage 0-2"
            )
        if self.optim.gradient_checkpointing:
            raise UserError(
                "optim.gradient_checkpointing recomputes with whichever adapter is on then, which is wrong where "
                "policy and critic share a trunk: lower update.micro_prompts instead"
            )
        if self.max_prompt_tokens + self.rollout.max_new_tokens > self.rollout.engine.max_model_len:
            raise UserError(
                f"max_prompt_tokens {self.max_prompt_tokens} and rollout.max_new_tokens {self.rollout.max_new_tokens} "
                f"do not fit into rollout.engine.max_model_len {self.rollout.engine.max_model_len}: raise it, or lower "
                "these"
            )
        if self.rollout.min_new_tokens > self.rollout.max_new_tokens:
            raise UserError("rollout.min_new_tokens is more than rollout.max_new_tokens")
        if self.guards.rewards and self.blind:
            raise UserError(f"guards.rewards would change nothing: {self.blind}")

    @property
    def blind(self) -> str:
        """Why a gamed reward could not be seen while there is something to hold or stop; empty: it can."""
        guards, iterations = self.guards, self.update.iterations
        looks = guards.looks_in(iterations)
        if looks >= guards.looks_needed:
            return ""
        return (
            f"it takes guards.patience + 1 = {guards.looks_needed} looks at held-out prompts to see a reward being "
            f"gamed, and before the last of update.iterations={iterations} there are {looks}: lower guards.eval_every "
            f"({guards.eval_every}) or guards.patience"
        )
