"""What steers and what stops a PPO run: the KL coefficient, and guards against a run that looks fine and is not."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from components.training.ppo.settings import GuardConfig, KlConfig

_PAID = ("objective/scores", "objective/reward")  # what reward models said, and what was paid


@dataclass
class KlControl:
    """The coefficient of the KL term; with a target it follows the measured KL.

    Source: Ziegler et al. 2019 (arXiv 1909.08593) section 2.2.
    """

    config: KlConfig
    coefficient: float = -1.0

    def __post_init__(self) -> None:
        if self.coefficient < 0:
            self.coefficient = self.config.coefficient

    def update(self, kl: float, answers: int) -> None:
        """Follow the KL (nats per answer) that ``answers`` answers had."""
        if self.config.target is None:
            return
        error = min(max(kl / self.config.target - 1, -0.2), 0.2)
        self.coefficient *= 1 + error * min(answers / self.config.horizon, 1.0)

    def cool(self) -> None:
        """Hold the policy twice as strongly, and at least a little, but at most 16 times as was asked for.

        Doubt may last for the whole rest of a run: doubled each time, the reward would soon count for nothing.
        """
        most = 16 * max(self.config.coefficient, 0.01)
        self.coefficient = max(self.coefficient, min(max(2 * self.coefficient, 0.01), most))


@dataclass
class Guards:
    """Looks at every iteration's figures; its memory is part of a checkpoint."""

    config: GuardConfig  # with its bounds: see GuardConfig.in_formats
    skipped: int = 0
    looks: list[tuple[float, list[float]]] = field(default_factory=list)  # (training reward, each held-out prompt's)
    alarms: int = 0

    def before_update(self, figures: Mapping[str, float], *, first: bool) -> str | None:
        """Return why these answers must not be trained on, if anything; ``first`` is the first iteration of all."""
        config = self.config
        assert config.max_engine_gap is not None and config.max_ratio_gap is not None
        if not figures["rollout/engine_gap"] <= config.max_engine_gap:
            return (
                f"engine and trainer differ by {figures['rollout/engine_gap']:.4f} nats per token in the mean, over "
                f"{config.max_engine_gap}: the engine's weights are not the trainer's"
            )
        if first and not figures["objective/reference_gap"] <= config.max_ratio_gap:
            return (
                f"policy and reference differ by {figures['objective/reference_gap']:.4f} nats per token in the mean "
                "before training, not by 0: the policy does not start at its reference"
            )
        if not figures["objective/kl"] <= config.max_kl:
            return f"the KL to the reference is {figures['objective/kl']:.1f} nats per answer, over {config.max_kl}"
        return self._disagreement(figures) if config.hacking == "stop" else None

    def before_step(self, log_ratio: float) -> str | None:
        """Return why an iteration's first step must not be made, if it must not.

        Args:
            log_ratio: mean |log-ratio| of the policy to itself, as it was when it looked at the answers.
        """
        assert self.config.max_ratio_gap is not None
        if log_ratio <= self.config.max_ratio_gap:
            return None
        return (
            f"the log-ratio before the first update is {log_ratio:.4f} in the mean, not 0: the policy that is trained "
            "is not the one that was scored"
        )

    def after_update(self, figures: Mapping[str, float]) -> str | None:
        """Return why there must be no further iteration, if anything."""
        self.skipped = self.skipped + 1 if figures["update/skipped"] else 0
        if self.skipped > self.config.max_skipped:
            told = [f"{name} is {figures[name]}" for name in _PAID if not math.isfinite(figures[name])]
            whose = f": {' and '.join(told)}, the rewards are no numbers" if told else ""
            return f"the gradient was not finite in {self.skipped} iterations in a row{whose}"
        return None

    def doubt(self, figures: Mapping[str, float]) -> str | None:
        """Return why the rewards may not be trusted, where that holds the policy tighter and does not stop the run."""
        return self._disagreement(figures) if self.config.hacking == "cool" else None

    def _disagreement(self, figures: Mapping[str, float]) -> str | None:
        limit, found = self.config.max_disagreement, figures["objective/disagreement"]
        if limit is None or found <= limit:
            return None
        return (
            f"the reward models' heads differ by {found:.2f} held-out deviations in the mean, over {limit}: these "
            "answers are unlike those that they learned from"
        )

    def collapse(self, figures: Mapping[str, float]) -> str | None:
        """Return a warning where the policy says the same thing again and again."""
        if figures["objective/entropy"] < self.config.min_entropy:
            self.alarms += 1
            return f"entropy is {figures['objective/entropy']:.4f} nats per token: the policy has collapsed"
        if figures["rollout/distinct_2"] < self.config.min_distinct:
            self.alarms += 1
            return f"only {figures['rollout/distinct_2']:.1%} of word pairs differ: the policy repeats itself"
        return None

    def is_hacking(self, training: float, held_out: Sequence[float]) -> bool:
        """Note a look at held-out prompts; True if training reward rose and held-out reward fell ``patience`` times.

        It fell if the mean of the prompts' differences is below 0 by more than its standard error: from some prompts'
        chance alone it is below 0 every other time.
        """
        self.looks = [*self.looks, (training, list(held_out))][-self.config.looks_needed :]
        if len(self.looks) < self.config.looks_needed:
            return False
        return all(
            after[0] > before[0] and _fell(before[1], after[1]) for before, after in itertools.pairwise(self.looks)
        )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {name: value for name, value in asdict(self).items() if name != "config"}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self.skipped, self.alarms = state["skipped"], state["alarms"]
        self.looks = [(training, held_out) for training, held_out in state["looks"]]


def _fell(before: Sequence[float], after: Sequence[float]) -> bool:
    differences = [new - old for old, new in zip(before, after, strict=True)]
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return statistics.fmean(differences) < -error
