"""The loop of PPO: draw, score, update, push; again. It is handed its models, engines and rewards.

Shapes: P prompts of this worker, K answers to each, R tokens of the longest answer, N tokens of one pass.
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from components.training.callbacks import Breach
from components.training.ppo import advantages as adv
from components.training.ppo.control import Guards, KlControl
from components.training.ppo.experience import Experience, minibatches, passes
from components.training.ppo.figures import Scores, Timer, explained_variance, objective, speeds
from components.training.ppo.learner import rate_after_idle
from components.training.ppo.losses import importance_weights, kl_terms, policy_loss, value_loss
from components.training.ppo.roles import Roles
from components.training.ppo.rollout import Rollouts
from components.training.ppo.settings import AdvantageConfig, ClipConfig, RewardShape, RolloutConfig, UpdateConfig

logger = logging.getLogger(__name__)


class Learner(Protocol):
    """The optimizer: DeepSpeed's engine in a run."""

    module: Any

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of a part of the step's loss."""

    def step(self, progress: float, policy: float) -> float:
        """Update the weights at this part (0 to 1) of the schedule, and ``policy`` times its rate for the policy's;
        return the gradient's norm before clipping.
        """


Score = Callable[[Sequence[Any], Experience], Scores]  # (rows of prompts, experience)
Note = Callable[[int, Sequence[Any], Experience, Scores], None]  # (iteration, rows of prompts, experience, scores)


@dataclass(frozen=True)
class Settings:
    """The parts of the configuration that the loop reads."""

    rollout: RolloutConfig
    update: UpdateConfig
    advantage: AdvantageConfig
    clip: ClipConfig
    reward: RewardShape
    seed: int
    rank: int = 0
    workers: int = 1


class PpoLoop:
    """One worker's part of a run; ``state`` and ``restore`` are what a checkpoint holds beside the weights."""

    def __init__(
        self,
        settings: Settings,
        roles: Roles,
        learner: Learner,
        rollouts: Rollouts,
        score: Score,
        kl: KlControl,
        guards: Guards,
        reduce: adv.Reduce = lambda values: values,
        note: Note = lambda *_: None,
    ) -> None:
        """Take what the loop works with; ``reduce`` sums a tensor over all workers, ``note`` is told every answer."""
        self.settings, self.roles, self.learner = settings, roles, learner
        self.rollouts, self.score, self.kl, self.guards, self.reduce = rollouts, score, kl, guards, reduce
        self.note = note
        self.iteration = 0
        self.seconds: dict[str, float] = {}
        self.running = 0  # the iteration that runs or ran last
        self.figures: dict[str, float] = {}  # what is known of it, also where it broke an invariant

    def run_iteration(self, rows: Sequence[Any]) -> dict[str, float]:
        """Draw answers to this worker's prompts, train on them, push the new weights; return the figures.

        Args:
            rows: of this iteration's prompts, ``prompt_ids`` in each.

        Raises:
            Breach: what must hold does not.
        """
        self.seconds, self.running, self.figures = {}, self.iteration + 1, {}
        started = time.monotonic()
        with self._timed("generate"):
            drawn = self.draw(rows)
        with self._timed("logprobs"):
            self._look(drawn)
        with self._timed("score"):
            scores = self.score(rows, drawn)
        self.note(self.running, rows, drawn, scores)
        figures = self.figures
        figures |= self._value(drawn, scores)
        self._stop_if(self.guards.before_update(figures, first=self.iteration == 0))
        with self._timed("update"):
            figures |= self._update(drawn)
        self._stop_if(self.guards.after_update(figures))
        with self._timed("sync"):
            self.push(self.running)
        figures |= speeds(self.seconds, time.monotonic() - started, drawn, self.reduce)
        replaced = torch.tensor([float(self.rollouts.replaced)], dtype=torch.float64)  # each by whoever noticed it
        figures["rollout/engines_replaced"] = self.reduce(replaced).item()
        self._doubt(figures)
        self.kl.update(figures["objective/kl"], self.settings.rollout.prompts * self.settings.rollout.samples)
        self.iteration += 1
        return figures

    def _stop_if(self, problem: str | None) -> None:
        if problem:
            raise Breach(f"{problem} (iteration {self.running})")

    def _doubt(self, figures: dict[str, float]) -> None:
        """Hold the policy tighter, or warn, as the guards say."""
        doubt = self.guards.doubt(figures)
        if doubt:
            self.kl.cool()
            figures["guards/cooled"] = 1.0
        for warning in (doubt, self.guards.collapse(figures)):
            if warning:
                logger.warning("iteration %d: %s", self.running, warning)

    def push(self, version: int) -> None:
        """Let the engines hold the policy's weights."""
        self.rollouts.push(self.roles.policy_weights, version)

    def draw(self, rows: Sequence[Any], *, greedy: bool = False) -> Experience:
        """Return answers to the rows' prompts."""
        prompts = [list(row["prompt_ids"]) for row in rows]
        seed = (self.settings.seed * 100_003 + self.iteration) * self.settings.workers + self.settings.rank
        samples = 1 if greedy else self.settings.rollout.samples
        return Experience(prompts, self.rollouts.draw(prompts, samples, seed, greedy))

    def _look(self, drawn: Experience) -> None:
        """Let policy, reference and critic, as they are before the update, look at the answers."""
        temperature = self.settings.rollout.temperature
        module = self.learner.module
        with torch.no_grad():
            for numbers in passes(drawn, self.settings.update.micro_prompts):
                packed, labels_N = self.roles.batch(*drawn.ids(numbers))
                drawn.below |= zip(numbers, self.roles.learn_below(packed, *drawn.ids(numbers)), strict=False)
                logprobs, entropy, values = module(packed, labels_N, temperature)
                drawn.put(drawn.old, numbers, logprobs)
                drawn.put(drawn.entropy, numbers, entropy)
                drawn.put(drawn.reference, numbers, self.roles.reference_logprobs(packed, labels_N, temperature))
                if values is not None:
                    drawn.put(drawn.values, numbers, values)
        drawn.trust(self.settings.rollout.min_new_tokens)

    def _value(self, drawn: Experience, scores: Scores) -> dict[str, float]:
        """Fill in advantages and returns; return what is known before the update."""
        settings, mask = self.settings, drawn.mask
        total = scores.total
        if settings.reward.whiten:
            total = adv.whiten(total, torch.ones_like(total, dtype=torch.bool), self.reduce, shift=False)
        kl = kl_terms(drawn.old, drawn.reference, "k1") * mask
        penalties = torch.zeros_like(kl)
        if self.kl.config.place == "reward":
            penalties = self.kl.coefficient * kl_terms(drawn.old, drawn.reference, self.kl.config.estimator)
        penalties = penalties * mask
        rewards = adv.token_rewards(total, penalties, mask, scores.steps)
        how = settings.advantage
        if how.name == "gae":
            drawn.advantages, drawn.returns = adv.gae(rewards, drawn.values, mask, how.gamma, how.lam)
        elif how.name == "rloo":
            drawn.advantages = adv.leave_one_out(rewards.sum(-1), mask)
        else:
            scored = adv.token_rewards(total, torch.zeros_like(kl), mask, scores.steps)
            drawn.advantages = adv.group_relative(scored.sum(-1), penalties.sum(-1), mask)
        if how.whiten:
            even_out = adv.whiten if how.name == "gae" else adv.scale
            drawn.advantages = even_out(drawn.advantages, mask, self.reduce)
        figures = objective(drawn, scores, kl, rewards, penalties, self.reduce)
        figures["objective/kl_coefficient"] = self.kl.coefficient
        if self.kl.config.target is not None:
            figures["objective/kl_target"] = self.kl.config.target
        if how.name == "gae":
            figures["value/explained_variance"] = explained_variance(drawn, self.reduce)
        return figures

    def _update(self, drawn: Experience) -> dict[str, float]:
        """Train on the answers; return the means over the tokens of every step."""
        settings = self.settings
        totals: dict[str, float] = {}
        steps = skipped = 0
        count = settings.update.minibatches
        for epoch in range(settings.update.epochs):
            seed = f"{settings.seed} {self.iteration} {epoch}"
            for micros in minibatches(len(drawn.prompts), count, settings.update.micro_prompts, seed):
                figures, norm = self._step(drawn, micros, steps)
                steps += 1
                skipped += not math.isfinite(norm)
                for name, value in (figures | {"update/grad_norm": norm}).items():
                    totals[name] = totals.get(name, 0.0) + value
        figures = {name: value / steps for name, value in totals.items()}
        return figures | {"update/skipped": float(skipped)}

    def _step(self, drawn: Experience, micros: list[list[int]], number: int) -> tuple[dict[str, float], float]:
        """Make one optimizer step of some passes; return the means over its tokens, and the gradient's norm."""
        settings = self.settings
        chosen = [n for numbers in micros for n in numbers]
        tokens = self.reduce(drawn.mask[chosen].sum().double()[None]).item()
        totals: dict[str, torch.Tensor] = {}
        for numbers in micros:
            loss, sums = self._pass(drawn, numbers)
            # DeepSpeed averages gradients over the workers; the loss is a sum over the tokens of all of them.
            self.learner.backward(loss * settings.workers / tokens)
            for name, value in sums.items():
                totals[name] = totals.get(name, torch.zeros((), dtype=torch.float64)) + value.detach().double().cpu()
        found = self.reduce(torch.stack(list(totals.values())))
        figures = dict(zip(totals, (found / tokens).tolist(), strict=True))
        if number == 0:
            self.figures["update/first_log_ratio"] = figures["policy/abs_log_ratio"]
            self._stop_if(self.guards.before_step(figures["policy/abs_log_ratio"]))
        update = settings.update
        each = update.epochs * update.minibatches
        done = self.iteration * each + number
        policy = rate_after_idle(done, update.critic_warmup * each)
        norm = self.learner.step(done / (update.iterations * each), policy)
        return figures, norm

    def _pass(self, drawn: Experience, numbers: list[int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of one forward pass, a sum over its tokens, and sums for the figures."""
        settings = self.settings
        packed, labels_N = self.roles.batch(*drawn.ids(numbers), drawn.known_below(numbers))
        device = labels_N.device
        known = {name: drawn.flat(getattr(drawn, name), numbers).to(device) for name in _KNOWN}
        trains_policy = self.iteration >= settings.update.critic_warmup
        temperature, bonus = settings.rollout.temperature, settings.update.entropy
        logprobs, entropies, values = self.learner.module(
            packed, labels_N, temperature, entropy_gradient=bonus > 0, train_policy=trains_policy
        )
        loss = torch.zeros((), device=device)
        sums: dict[str, torch.Tensor] = {"policy/abs_log_ratio": torch.zeros(())}
        if trains_policy:
            weights = importance_weights(known["old"], known["engine"], settings.rollout.importance_cap)
            found = policy_loss(logprobs, known["old"], known["advantages"], settings.clip, weights)
            loss = loss + found.loss - bonus * entropies.sum()
            if self.kl.config.place == "loss":
                held = kl_terms(logprobs, known["reference"], self.kl.config.estimator).sum()
                loss = loss + self.kl.coefficient * held
            sums |= {
                "loss/policy": found.loss,
                "policy/clipfrac": found.clipped,
                "policy/approxkl": found.approx_kl,
                "policy/entropy": entropies.sum(),
                "policy/ratio": found.ratio_N.sum(),
                "policy/abs_log_ratio": found.ratio_N.log().abs().sum(),
                "policy/importance": weights.sum(),
                "policy/importance_capped": (weights >= settings.rollout.importance_cap).sum(),
            }
        if values is not None:
            error = value_loss(values, known["values"], known["returns"], settings.clip.value)
            loss = loss + settings.update.value * error
            sums["loss/value"] = error
            if settings.clip.value is not None:
                sums["value/clipfrac"] = ((values - known["values"]).abs() > settings.clip.value).sum()
        return loss, sums

    def _timed(self, phase: str) -> Timer:
        return Timer(self.seconds, phase)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold beside weights and optimizer."""
        return {"iteration": self.iteration, "kl_coefficient": self.kl.coefficient, "guards": self.guards.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on after ``state``; what is drawn depends on the iteration alone, so no cursor or generator is lost."""
        self.iteration, self.kl.coefficient = state["iteration"], state["kl_coefficient"]
        self.guards.restore(state["guards"])


_KNOWN = ("old", "engine", "reference", "values", "advantages", "returns")
