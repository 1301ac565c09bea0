"""PPO against TRL's: one task for both sides, and what each side measured of it."""

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from components.benchmarks import environment
from components.benchmarks.compare import compare
from components.benchmarks.processes import Arena, Outcome, Ran, Setting, Watched
from components.config import Field, UserError
from components.data.chat import ChatTemplate
from components.models.adapters import AdapterConfig
from components.tracking.history import read_curves

TRL = ("trl==1.12.0", "transformers==5.19.0", "accelerate==1.15.0", "datasets==5.2.0", "peft==0.21.2")
SCRIPT = Path(__file__).with_name("peer_trl_ppo.py")
_LEARNING_RATE, _KL_COEFFICIENT, _VALUE_WEIGHT, _TEMPERATURE = 3e-6, 0.05, 0.5, 1.0
_WORDS = ("river", "garden", "letter", "window", "bridge", "summer", "engine", "market", "paper", "silver", "forest")
_PHASES = ("generate", "logprobs", "score", "update", "sync", "update_forward", "update_backward", "update_step")


class PpoTask(Watched):
    """What both sides do, over and over; every answer has the same length, whatever the model would say."""

    prompts: int = Field(16, ge=1, description="prompts of one iteration")
    samples: int = Field(1, ge=1, description="answers to each prompt; TRL is given a prompt as often")
    prompt_tokens: int = Field(128, ge=8, description="tokens of every prompt, its chat template included")
    new_tokens: int = Field(64, ge=1, description="tokens of every answer")
    epochs: int = Field(4, ge=1, description="passes over an iteration's answers")
    minibatches: int = Field(4, ge=1, description="optimizer steps in a pass")
    adapter: Literal["lora", "none"] = Field(
        "lora", description="ours: lora has every model on one frozen trunk, none trains whole models as TRL does"
    )
    critic: Literal["policy", "fresh"] = Field(
        "policy", description="ours: policy is a head on the policy; fresh has weights of its own, as TRL's has"
    )
    first_layer: int = Field(0, ge=0, description="ours: lowest block with an adapter; those below are frozen")
    kv_cache_gib: float = Field(0.25, gt=0, description="ours: key-value cache of the engine, in GiB")
    peer_adapter: Literal["lora", "none"] = Field(
        "none", description="TRL's: lora gives its policy an adapter; its value model is trained whole in any case"
    )
    micro_prompts: int | None = Field(
        None, ge=1, description="prompts of one of our forward passes; none takes a minibatch's, as TRL does"
    )
    warmup: int = Field(1, ge=1, description="first iterations, which do not count")
    iterations: int = Field(3, ge=1, description="iterations that count; their spread makes the intervals")

    def check(self) -> None:
        """Refuse a batch that does not divide.

        Raises:
            UserError: naming the keys to change.
        """
        if self.prompts % self.minibatches:
            raise UserError(f"prompts {self.prompts} is not a multiple of minibatches {self.minibatches}")

    @property
    def answers(self) -> int:
        """Return the answers of one iteration."""
        return self.prompts * self.samples

    @property
    def updates(self) -> int:
        """Return the iterations of a run, warm-up included."""
        return self.warmup + self.iterations


@dataclass(frozen=True)
class Inputs:
    """What both sides are given."""

    model: Path
    dtype: str
    threads: int
    seed: int
    table: str  # the prompts, for us
    prompts: list[list[int]]  # the same as token ids, for TRL
    reward: Path  # an adapter on the trunk; TRL takes a whole model with a fresh head


@dataclass(frozen=True)
class Measured:
    """One side's iterations, warm-up left out."""

    seconds: list[float]
    phases: list[dict[str, float]]
    peaks: list[int]  # bytes, of each iteration
    whole_peak: int  # of the whole run, start included
    peak_by_process: dict[str, int]  # where that memory is, by kind of process


def pins() -> list[str]:
    """Return the packages of TRL's environment; PyTorch is the build that we run."""
    return [*environment.same_as_ours("torch"), *TRL]


def run(task: PpoTask, setting: Setting) -> Outcome:
    """Run both sides.

    Raises:
        UserError: TRL's environment cannot be made.
    """
    arena = setting.arena
    python = environment.environment("trl", pins(), setting.cache)
    how: dict[str, Any] = {"threads": arena.threads, "seed": setting.seed}
    inputs = make_inputs(task, setting.model, setting.digest, arena.folder, **how)
    ours, trl = measure_ours(task, inputs, arena, setting.ours), measure_trl(task, inputs, arena, python)
    return Outcome(page(ours, trl, environment.installed(python)), figures(task, ours, trl))


def make_inputs(task: PpoTask, model: Path, digest: str, folder: Path, *, threads: int, seed: int) -> Inputs:
    """Write prompts and a reward model to ``folder``.

    Raises:
        UserError: no prompt can have so few tokens.
    """
    from components.data import store
    from components.data.records import DEMONSTRATION
    from components.training.settings import weight_dtype

    template = ChatTemplate.from_folder(model)
    texts = make_prompts(template, task.prompts * task.updates, task.prompt_tokens, seed)
    messages = [[{"role": "user", "content": text}] for text in texts]
    empty: dict[str, Any] = {"completion": [], "kind": "speed", "split": "train", "source": "made up"}
    rows = [{"prompt_id": f"{n:05d}", "prompt": own, **empty} for n, own in enumerate(messages)]
    table = store.write(str(folder / "lancedb"), "prompts", rows, schema=DEMONSTRATION, key="prompt_id")
    dtype = weight_dtype("auto", False)
    adapter = AdapterConfig(first_layer=task.first_layer)
    reward = write_reward(folder / "reward", model, digest, template.digest, adapter, dtype, seed)
    prompts = [template.prompt_ids(own) for own in messages]
    return Inputs(model, dtype, threads, seed, table, prompts, reward)


def make_prompts(template: ChatTemplate, count: int, tokens: int, seed: int) -> list[str]:
    """Return made-up questions which the template turns into exactly ``tokens`` tokens each.

    Raises:
        UserError: the template alone has more.
    """
    drawn = random.Random(seed)

    def size(text: str) -> int:
        return len(template.prompt_ids([{"role": "user", "content": text}]))

    texts = [_prompt(size, tokens, drawn) for _ in range(count)]
    if not all(texts):
        raise UserError(f"no prompt of this model's chat template has prompt_tokens={tokens}: raise it")
    return texts


def _prompt(size: Callable[[str], int], tokens: int, drawn: random.Random) -> str:
    """Return words of which ``size`` says exactly ``tokens``; empty if there are none."""
    text = drawn.choice(_WORDS)
    while text and size(text) != tokens:
        longer = [f"{text} {drawn.choice(_WORDS)}", *(text + filler for filler in (" a", ".", "!", "x"))]
        text = next((other for other in longer if size(text) < size(other) <= tokens), "")
    return text


def write_reward(
    folder: Path, model: Path, digest: str, template_digest: str, adapter: AdapterConfig, dtype: str, seed: int
) -> Path:
    """Write a reward model that nobody trained: a fresh adapter on the trunk. It costs what a trained one costs."""
    from peft import get_peft_model

    from components.models.adapters import peft_config
    from components.models.rewards import RewardInfo, load_base

    base = load_base(model, 1, dtype, seed)
    config = peft_config(adapter, "SEQ_CLS")
    assert config is not None
    get_peft_model(base, config).save_pretrained(str(folder))
    RewardInfo("outcome", 1, str(model), digest, template_digest, (0.0,), (1.0,)).write(folder)
    return folder


def our_arguments(task: PpoTask, inputs: Inputs, storage: Path) -> list[str]:
    """Return train_ppo's command line for the task."""
    settings: dict[str, Any] = {
        "storage": storage,
        "seed": inputs.seed,
        "ray.num_cpus": inputs.threads,
        "model": inputs.model,
        "prompts": inputs.table,
        "rewards": f"[{inputs.reward}]",
        "max_prompt_tokens": task.prompt_tokens,
        "eval_rows": 0,
        "adapter.name": task.adapter,
        "adapter.first_layer": task.first_layer,
        "advantage.critic": task.critic,
        "rollout.prompts": task.prompts,
        "rollout.samples": task.samples,
        "rollout.max_new_tokens": task.new_tokens,
        "rollout.min_new_tokens": task.new_tokens,
        "rollout.temperature": _TEMPERATURE,
        "rollout.engine.kv_cache_gib": task.kv_cache_gib,
        "rollout.engine.max_model_len": max(256, task.prompt_tokens + task.new_tokens),
        "reward.missing_eos": 0,  # no answer ends by itself
        "kl.coefficient": _KL_COEFFICIENT,
        "update.iterations": task.updates,
        "update.epochs": task.epochs,
        "update.minibatches": task.minibatches,
        "update.micro_prompts": task.micro_prompts or task.prompts // task.minibatches,
        "update.value": _VALUE_WEIGHT,
        "optim.learning_rate": _LEARNING_RATE,
        "optim.critic_learning_rate": _LEARNING_RATE,
        "optim.dtype": inputs.dtype,
        "save.every": task.updates + 1,
    }
    return [f"{key}={value}" for key, value in settings.items()]


def trl_arguments(task: PpoTask, inputs: Inputs, folder: Path) -> list[str]:
    """Write the task as TRL's script reads it, and return the script's command line."""
    adapter = AdapterConfig()
    spec = {
        "model": str(inputs.model),
        "dtype": inputs.dtype,
        "threads": inputs.threads,
        "seed": inputs.seed,
        "prompts": inputs.prompts,
        "samples": task.samples,
        "batch": task.answers,
        "updates": task.updates,
        "minibatches": task.minibatches,
        "epochs": task.epochs,
        "new_tokens": task.new_tokens,
        "temperature": _TEMPERATURE,
        "learning_rate": _LEARNING_RATE,
        "kl_coefficient": _KL_COEFFICIENT,
        "value_weight": _VALUE_WEIGHT,
        "adapter": {"r": adapter.rank, "lora_alpha": adapter.alpha} if task.peer_adapter == "lora" else None,
        "output_dir": str(folder / "trl"),
    }
    path = folder / "trl_spec.json"
    path.write_text(json.dumps(spec))
    return ["-P", str(SCRIPT), str(path)]


def our_iterations(task: PpoTask, curves: Mapping[str, Sequence[tuple[int, float]]]) -> list[dict[str, Any]]:
    """Return the seconds and phases of each iteration from the curves of our run; step 0 is before the first."""
    known = {name: {step: value for step, value in points if step} for name, points in curves.items()}
    return [
        {
            "seconds": known["time/iteration"][step],
            "phases": {phase: known[f"time/{phase}"][step] for phase in _PHASES if f"time/{phase}" in known},
        }
        for step in range(1, task.updates + 1)
    ]


def measure_ours(task: PpoTask, inputs: Inputs, arena: Arena, train_ppo: Sequence[str]) -> Measured:
    """Run our PPO by the command ``train_ppo``."""
    storage = arena.folder / "ours"
    ran = arena.run("ours", [*train_ppo, *our_arguments(task, inputs, storage)])
    curves = read_curves(storage, json.loads(ran.lines[-1])["run_id"])
    return measured(task, our_iterations(task, curves), ran)


def measure_trl(task: PpoTask, inputs: Inputs, arena: Arena, python: Path) -> Measured:
    """Run TRL's PPO by the Python of its environment."""
    ran = arena.run("trl", [str(python), *trl_arguments(task, inputs, arena.folder)])
    return measured(task, [json.loads(line) for line in ran.lines], ran)


def measured(task: PpoTask, found: Sequence[Mapping[str, Any]], ran: Ran) -> Measured:
    """Return what counts of one side's iterations, each with its ``seconds`` and ``phases``."""
    assert len(found) == len(ran.laps) == task.updates, f"{len(found)} iterations, {len(ran.laps)} peaks: {task}"
    kept = found[task.warmup :]
    seconds, phases = [own["seconds"] for own in kept], [own["phases"] for own in kept]
    return Measured(seconds, phases, ran.laps[task.warmup :], ran.peak, ran.peak_by_process)


def figures(task: PpoTask, ours: Measured, peer: Measured) -> dict[str, float]:
    """Return the comparisons, and the mean seconds of each side's phases."""
    found = compare("ppo.samples_per_s", ours.seconds, peer.seconds, work=task.answers)
    found |= compare("ppo.peak_memory", ours.peaks, peer.peaks)
    for side, own in (("ours", ours), ("peer", peer)):
        found[f"whole_peak.{side}"] = float(own.whole_peak)
        found[f"seconds.{side}"] = sum(own.seconds) / len(own.seconds)
        for phase in _PHASES:
            if all(phase in phases for phases in own.phases):
                found[f"seconds.{side}.{phase}"] = sum(phases[phase] for phases in own.phases) / len(own.phases)
    return found


def page(ours: Measured, peer: Measured, packages: str) -> str:
    """Return everything that was measured, as JSON."""
    return json.dumps({"ours": asdict(ours), "peer": asdict(peer), "peer_packages": packages.split()}, indent=2)


def plan(task: PpoTask, cache: Path) -> dict[str, str]:
    """Return what each side does, and where TRL's environment is made."""
    return {
        "each side": f"{task.updates} iterations x {task.answers} answers, {task.warmup} of them to warm up",
        "tokens": f"{task.prompt_tokens} of a prompt, {task.new_tokens} of an answer",
        "environment": f"{environment.folder_of('trl', pins(), cache)} ({', '.join(pins())})",
    }
