"""The sections of a PPO run's YAML."""

from typing import Any, Literal

from pydantic import model_validator

from components.config import Config, Field, InputPath, UserError
from components.models.engine import EngineConfig
from components.training.settings import AdamWConfig

Advantage = Literal["gae", "rloo", "grpo"]
Estimator = Literal["k1", "k2", "k3"]


class KlConfig(Config):
    """How the policy is held to the reference, the model it started from."""

    place: Literal["reward", "loss"] = Field(
        "reward", description="subtracted from each token's reward, or in the loss"
    )
    estimator: Estimator = Field("k1", description="k1 log-ratio, k2 half its square, k3 the unbiased positive one")
    coefficient: float = Field(0.05, ge=0, description="how strongly; with a target, where the coefficient starts")
    target: float | None = Field(None, gt=0, description="KL to steer to, in nats per answer; none keeps it fixed")
    horizon: int = Field(2000, ge=1, description="answers in which the coefficient changes by at most a fifth")


class AdvantageConfig(Config):
    """How an answer's reward becomes each token's advantage."""

    name: Advantage = Field("gae", description="gae has a critic; rloo and grpo compare answers to one prompt")
    gamma: float = Field(1.0, gt=0, le=1, description="discount per token")
    lam: float = Field(0.95, ge=0, le=1, description="lambda of generalized advantage estimation")
    critic: Literal["reward", "fresh", "policy"] = Field(
        "fresh",
        description="gae's critic: policy is a head on the policy, learned in its own pass; fresh has weights of its "
        "own and starts at 0; reward starts as the first reward model that shares the trunk",
    )
    whiten: bool = Field(True, description="mean 0 and variance 1 over the whole batch, across workers")


class ClipConfig(Config):
    """How far one batch may move the policy and the critic."""

    low: float = Field(0.2, gt=0, lt=1, description="ratios below 1 - low stop mattering")
    high: float = Field(0.2, gt=0, description="ratios above 1 + high stop mattering; more than low explores more")
    dual: float | None = Field(None, gt=1, description="bound on the loss of a bad token: dual x -advantage")
    value: float | None = Field(0.2, gt=0, description="how far a value may move; none does not bound it")


class RewardShape(Config):
    """How a reward model's answer becomes the reward; the models' rewards are in held-out standard deviations."""

    judge: float = Field(0.0, ge=0, description="weight of the programmatic judge's score (needs a questions table)")
    false_abstention: float = Field(
        0.0, le=0, description="the judge's score of abstaining where there is an answer; below 0, never trying loses"
    )
    weight: float = Field(1.0, ge=0, description="weight of the reward models' combined reward")
    steps: float = Field(
        0.0,
        ge=0,
        description="weight of each step's reward by process reward models, beside that of the worst, which is the "
        "answer's",
    )
    clip: float = Field(5.0, gt=0, description="rewards of answers, and of steps, are clipped to +- this")
    whiten: bool = Field(False, description="divide rewards by their deviation over the batch; the mean is kept")
    missing_eos: float = Field(1.0, ge=0, description="subtracted from an answer that was cut off")


class RolloutConfig(Config):
    """How answers are drawn from the policy."""

    prompts: int = Field(16, ge=1, description="prompts of one iteration, over all workers")
    samples: int = Field(8, ge=1, description="answers to each prompt; they share its forward passes")
    max_new_tokens: int = Field(48, ge=1, description="longest answer, in tokens")
    min_new_tokens: int = Field(
        0,
        ge=0,
        description="an answer may not end before; to compare speeds at forced lengths: up to there, engine and "
        "trainer are not compared",
    )
    temperature: float = Field(1.0, gt=0, description="of the policy, in drawing and in every log-probability")
    importance_cap: float = Field(
        2.0, ge=1, description="truncated importance sampling: most that trainer / engine probability may weigh"
    )
    deadline_s: float = Field(600.0, gt=0, description="longest wait for an engine before it is named and replaced")
    share_gpus: bool = Field(
        False, description="with scale.gpu: each engine draws on the GPU that a worker trains on; as many as workers"
    )
    engine: EngineConfig = Field(EngineConfig(), description="the vLLM engines that draw")

    @property
    def gpus(self) -> tuple[float, float]:
        """Share of a GPU that an engine and a worker reserve; more than half keeps two engines off one GPU."""
        return (0.51, 0.49) if self.share_gpus else (1.0, 1.0)

    @property
    def engine_beside_training(self) -> EngineConfig:
        """The engine, with the memory that training leaves where it shares the GPU and nothing else was said."""
        if not self.share_gpus or self.engine.gpu_memory_share is not None:
            return self.engine
        return self.engine.model_copy(update={"gpu_memory_share": 0.4})


class UpdateConfig(Config):
    """How one iteration's answers are trained on."""

    iterations: int = Field(10, ge=1, description="rounds of drawing and training")
    epochs: int = Field(1, ge=1, description="passes over each iteration's answers")
    minibatches: int = Field(4, ge=1, description="optimizer steps in a pass")
    micro_prompts: int = Field(2, ge=1, description="prompts, with all their answers, of one forward pass")
    entropy: float = Field(0.0, ge=0, description="weight of the entropy bonus")
    value: float = Field(0.5, ge=0, description="weight of the critic's loss")
    critic_warmup: int = Field(0, ge=0, description="first iterations in which only the critic is trained")


_ELSEWHERE = {
    "epochs": "update.epochs",
    "batch_size": "rollout.prompts and update.minibatches",
    "micro_batch_size": "update.micro_prompts",
}


class PpoOptimConfig(AdamWConfig):
    """How the weights are updated; batch and epochs are the ``rollout`` and ``update`` sections' matter here."""

    learning_rate: float = Field(1e-4, gt=0, description="peak learning rate of the policy's AdamW")
    critic_learning_rate: float = Field(3e-4, gt=0, description="peak learning rate of the critic's")
    schedule: Literal["linear", "cosine", "constant_with_warmup"] = Field(
        "constant_with_warmup", description="learning rate after its warm-up"
    )

    @model_validator(mode="before")
    @classmethod
    def _where_others_are(cls, values: Any) -> Any:
        """Name the keys that do here what every other training's ``optim`` does."""
        for key, there in _ELSEWHERE.items():
            if isinstance(values, dict) and key in values:
                raise UserError(f"optim.{key} is not a key of PPO, where answers make a batch: set {there}")
        return values


class GuardConfig(Config):
    """What stops a run, and when."""

    max_kl: float = Field(40.0, gt=0, description="KL to the reference, nats per answer")
    max_engine_gap: float | None = Field(
        None,
        gt=0,
        description="mean |log-prob of engine - of trainer| per token; none: 0.001 where both compute in float32 on "
        "a CPU, else 0.15",
    )
    max_ratio_gap: float | None = Field(
        None,
        gt=0,
        description="mean |log-ratio| before the first update, and to the reference before training, where both must "
        "be 0; none: 0.001 in float32, else 0.05",
    )
    max_skipped: int = Field(3, ge=0, description="iterations in a row with a gradient that is not finite")
    min_entropy: float = Field(0.005, ge=0, description="nats per token; below it the policy has collapsed")
    min_distinct: float = Field(0.05, ge=0, le=1, description="share of different word pairs over an iteration")
    eval_every: int = Field(2, ge=1, description="iterations between two looks at held-out prompts")
    patience: int = Field(2, ge=1, description="looks in a row at which training reward rose and held-out reward fell")
    rewards: list[InputPath] = Field(
        [],
        description="reward models that nothing is paid by, to compare what is paid with; none: the judge if it is "
        "asked, else the same reward models on held-out prompts, which a policy that games them raises, too",
    )
    max_disagreement: float | None = Field(
        1.0, gt=0, description="mean deviation among the reward heads, in held-out deviations; none does not look"
    )
    hacking: Literal["stop", "cool"] = Field(
        "cool",
        description="what a gamed reward or too much disagreement does: stop, or double the KL coefficient, up to 16 "
        "times what it was",
    )

    @property
    def looks_needed(self) -> int:
        """How many looks can say that a reward is gamed."""
        return self.patience + 1

    def looks_in(self, iterations: int) -> int:
        """Return how many looks there are while a run of so many iterations can still be held or stopped.

        The one before training counts: the same policy gave the first iteration's answers. Where the next look is after
        that iteration, both go by its reward, which so cannot have risen.
        """
        return (iterations - 1) // self.eval_every + (self.eval_every > 1)

    def in_formats(self, trainer: str, engine: str, *, gpu: bool) -> "GuardConfig":
        """Return the guards with the bounds of these number formats where none was given.

        On a GPU an engine may round to TF32 within its kernels, whatever the format of its weights.
        """
        exact = trainer == "float32"
        gap = 0.001 if exact and engine == "float32" and not gpu else 0.15
        return self.model_copy(
            update={
                "max_engine_gap": gap if self.max_engine_gap is None else self.max_engine_gap,
                "max_ratio_gap": (0.001 if exact else 0.05) if self.max_ratio_gap is None else self.max_ratio_gap,
            }
        )
