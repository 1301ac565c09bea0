"""An engine and an optimizer in the same process, and a loop that is handed them."""

import math

import torch

from components.models.adapters import AdapterConfig
from components.models.folder import digest
from components.models.load import load_model
from components.training.ppo.control import Guards, KlControl
from components.training.ppo.experience import Answer
from components.training.ppo.figures import Scores
from components.training.ppo.loop import PpoLoop, Settings
from components.training.ppo.roles import Roles
from components.training.ppo.settings import (
    AdvantageConfig,
    ClipConfig,
    GuardConfig,
    KlConfig,
    RewardShape,
    RolloutConfig,
    UpdateConfig,
)

END = 2
TARGETS = 96  # ids below it are what the bandit is paid for: a quarter of the vocabulary
PROMPTS = [[5, 6, 7], [8, 9, 10, 11], [12, 13], [14, 15, 16, 17, 18], [19, 20], [21, 22, 23], [24, 25], [26, 27, 28]]
LORA, NONE = AdapterConfig(rank=8, alpha=16.0), AdapterConfig(name="none")


class FakeRollouts:
    """An engine that is a plain model in the same process; it has the weights that were pushed last."""

    replaced = 0

    def __init__(self, base, config, *, off_by=0.0, of_prompt_only=False):
        self.model, self.config = load_model(base, "float32"), config
        self.off_by, self.of_prompt_only = off_by, of_prompt_only  # the latter: not of the iteration or the worker
        self.versions = []

    def push(self, weights, version):
        outcome = self.model.load_state_dict(dict(weights()), strict=False)
        is_tied = self.model.config.tie_word_embeddings
        assert outcome.missing_keys == ["lm_head.weight"] * is_tied and not outcome.unexpected_keys
        self.versions.append(version)

    def draw(self, prompts, samples, seed, greedy=False):
        return [self._answers(prompt, samples, 0 if self.of_prompt_only else seed, greedy) for prompt in prompts]

    def _answers(self, prompt, samples, seed, greedy):
        generator = torch.Generator().manual_seed(seed * 1009 + sum(prompt))
        ids = torch.tensor([prompt] * samples)
        logprobs = []
        with torch.no_grad():
            for _ in range(self.config.max_new_tokens):
                known = (self.model(input_ids=ids).logits[:, -1] / self.config.temperature).log_softmax(-1)
                token = known.argmax(-1, keepdim=True) if greedy else known.exp().multinomial(1, generator=generator)
                logprobs.append(known.gather(1, token))
                ids = torch.cat([ids, token], 1)
        answers = []
        for row, own in zip(ids[:, len(prompt) :].tolist(), torch.cat(logprobs, 1).tolist(), strict=True):
            length = row.index(END) + 1 if END in row else len(row)
            answers.append(Answer(row[:length], [x + self.off_by for x in own[:length]], END in row))
        return answers


class PlainLearner:
    """What DeepSpeed does in a run: gradients add up, workers' are averaged, a step that is not finite is skipped."""

    def __init__(self, module, optimizer, *, max_norm=math.inf, reduce=lambda values: values, workers=1):
        self.module, self.max_norm, self.reduce, self.workers = module, max_norm, reduce, workers
        self.weights = [weight for weight in module.parameters() if weight.requires_grad]
        self.optimizer = optimizer(self.weights)
        self.progress, self.policy = [], []

    def backward(self, loss):
        loss.backward()

    def step(self, progress, policy):
        self.progress.append(progress)
        self.policy.append(policy)
        for weight in self.weights:
            if self.workers > 1 and weight.grad is not None:
                weight.grad = self.reduce(weight.grad) / self.workers
        norm = torch.nn.utils.clip_grad_norm_(self.weights, self.max_norm)
        if norm.isfinite():
            self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm)


def adamw(weights):
    return torch.optim.AdamW(weights, lr=5e-3, weight_decay=0.0)


def sgd(weights):
    """After one step the weights have moved by their gradients."""
    return torch.optim.SGD(weights, lr=1.0)


def share_of_targets(rows, drawn, sign=1.0):
    """Pay an answer for the share of its tokens that are targets."""
    paid = [[sum(t < TARGETS for t in a.ids) / len(a.ids) for a in own] for own in drawn.answers]
    total = sign * torch.tensor(paid)
    return Scores(total, total, None, torch.zeros_like(total))


def make_loop(
    base, *, optimizer=adamw, adapter=LORA, score=share_of_targets, rank=0, workers=1, reduce=None, **changes
):
    """A loop over four prompts with four answers; ``changes`` are of its sections or of the fake engine."""
    rollout = {"prompts": 4, "samples": 4, "max_new_tokens": 6, **changes.get("rollout", {})}
    update = {"iterations": 10, "minibatches": 1, "micro_prompts": 2, **changes.get("update", {})}
    settings = Settings(
        RolloutConfig(**rollout),
        UpdateConfig(**update),
        changes.get("advantage", AdvantageConfig()),
        changes.get("clip", ClipConfig()),
        RewardShape(**changes.get("reward", {})),
        changes.get("seed", 0),
        rank,
        workers,
    )
    reduce = reduce or (lambda values: values)
    torch.manual_seed(0)
    critic = settings.advantage.critic if settings.advantage.name == "gae" else None
    roles = Roles(base, adapter, [], critic=critic, dtype="float32", device="cpu", base_digest=digest(base))
    learner = PlainLearner(
        roles.module, optimizer, max_norm=changes.get("max_norm", math.inf), reduce=reduce, workers=workers
    )
    rollouts = FakeRollouts(base, settings.rollout, **changes.get("engine", {}))
    guards = Guards(changes.get("guards", GuardConfig()).in_formats("float32", "float32", gpu=False))
    kl = KlControl(changes.get("kl", KlConfig(coefficient=0.0)))
    loop = PpoLoop(settings, roles, learner, rollouts, score, kl, guards, reduce)
    loop.push(0)
    return loop


def rows_of(prompts):
    return [{"prompt_ids": prompt} for prompt in prompts]


def run(loop, iterations, prompts=PROMPTS[:4]):
    return [loop.run_iteration(rows_of(prompts)) for _ in range(iterations)]


def weights_of(loop):
    return {
        name: weight.detach().clone() for name, weight in loop.roles.module.named_parameters() if weight.requires_grad
    }


def assert_same_weights(ours, theirs, atol):
    for name, weight in ours.items():
        torch.testing.assert_close(
            weight, theirs[name], atol=atol, rtol=0, msg=lambda text, name=name: f"{name}: {text}"
        )


def moved(before, after):
    return max((after[name] - weight).abs().max().item() for name, weight in before.items())
