"""DPO against TRL's DPOTrainer by itself: one task for both sides, and what each side measured of it.

TRL runs twice: as it comes (the reference model in each step, memory given back to the system whenever it is freed),
and tuned (the reference precomputed, memory kept, as ours). All sides take the same pairs in the same optimizer
steps from the same weights, so that their losses can be compared step by step. Within a step ours has the pairs in
order of length, TRL in an order that chance gave, as its own sampler would.

The speed is measured in the machine's fastest number format. That the mathematics is the same shows in float32, where
losses differ by rounding alone: on short pairs, if that is not the fastest format.
"""

import importlib.metadata
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from components.benchmarks.compare import compare, largest_gap
from components.benchmarks.preference_pairs import Pairs, make_pairs
from components.benchmarks.processes import Outcome, Ran, Setting, Watched
from components.config import Field, UserError
from components.models.adapters import AdapterConfig
from components.tracking.history import read_curves

SCRIPT = Path(__file__).with_name("peer_trl_dpo.py")
PACKAGES = ("trl", "transformers", "accelerate", "peft", "datasets", "torch", "deepspeed", "ray")
PEERS = ("as_it_comes", "tuned")
Adapter = Literal["none", "lora"]
_BETA = 0.1
_LEARNING_RATES = {"none": 5e-6, "lora": 1e-4}


class PreferenceTask(Watched):
    """What all sides do: one pass over pairs that are drawn from a file."""

    pairs: str = Field(
        "../shared/data/hh_harmless/pairs.jsonl.gz", description="file of preference pairs, as build_preferences reads"
    )
    max_tokens: int = Field(512, ge=8, description="pairs with more tokens on a side are left out")
    adapters: tuple[Adapter, ...] = Field(
        ("none", "lora"), min_length=1, description="what is trained, a comparison each: none is all weights"
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="number format of the weights; auto is bfloat16 where the hardware multiplies it"
    )
    gpu: bool = Field(False, description="train on a GPU, all sides")
    batch_size: int = Field(4, ge=1, description="pairs of one optimizer step")
    micro_batch_size: int = Field(4, ge=1, description="pairs of one forward pass")
    length_window: int = Field(
        1, ge=1, description="steps among which pairs are dealt out by length, for all sides; 1 leaves it to chance"
    )
    warmup: int = Field(1, ge=1, description="first steps, which do not count")
    steps: int = Field(6, ge=1, description="steps that count; their spread makes the intervals")
    parity_steps: int = Field(5, ge=0, description="steps in float32 on short pairs, if dtype is another; 0: none")
    parity_tokens: int = Field(128, ge=8, description="longest side of the pairs in those steps")

    def check(self) -> None:
        """Refuse what does not divide or cannot be compared.

        Raises:
            UserError: naming the keys to change.
        """
        if self.batch_size % self.micro_batch_size:
            raise UserError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size {self.micro_batch_size}"
            )
        if self.parity_steps == 1:
            raise UserError("parity_steps=1 sees no update: give 2 or more, or 0 for none")
        if len(set(self.adapters)) < len(self.adapters):
            raise UserError(f"adapters {list(self.adapters)} names one twice")

    @property
    def updates(self) -> int:
        """Return the optimizer steps of a side, warm-up included."""
        return self.warmup + self.steps


@dataclass(frozen=True)
class Phase:
    """One comparison: what is trained, in which number format, on what."""

    adapter: Adapter
    dtype: str
    pairs: Pairs

    @property
    def name(self) -> str:
        """Return what its logs are called."""
        return f"{self.adapter}-{self.dtype}"


@dataclass(frozen=True)
class Measured:
    """One side's run; seconds and peaks are of the steps that count, losses of all."""

    losses: list[float]
    seconds: list[float]
    peaks: list[int]  # bytes, of each step
    whole_peak: int  # of the whole run, start included
    peak_by_process: dict[str, int]  # where that memory is, by kind of process
    reference_seconds: float  # before the first step
    reference_pairs: int  # computed in them
    gpu_bytes: int = 0  # most that tensors took on the GPU


Sides = dict[str, Measured]


def our_arguments(task: PreferenceTask, phase: Phase, setting: Setting, storage: Path) -> list[str]:
    """Return train_dpo's command line."""
    settings: dict[str, Any] = {
        "storage": storage,
        "seed": setting.seed,
        "ray.num_cpus": setting.arena.threads,
        "model": setting.model,
        "scale.gpu": task.gpu,
        "scoring.gpu": task.gpu,
        "preferences": phase.pairs.table,
        "max_tokens": phase.pairs.max_tokens,
        "eval_rows": 0,
        "adapter.name": phase.adapter,
        "loss.beta": _BETA,
        "optim.epochs": 1,
        "optim.batch_size": task.batch_size,
        "optim.micro_batch_size": task.micro_batch_size,
        "optim.length_window": task.length_window,
        "optim.learning_rate": _LEARNING_RATES[phase.adapter],
        "optim.schedule": "constant_with_warmup",
        "optim.warmup": 0,
        "optim.dtype": phase.dtype,
        "save.every": phase.pairs.steps + 1,
    }
    return [f"{key}={value}" for key, value in settings.items()]


def trl_arguments(task: PreferenceTask, phase: Phase, setting: Setting, peer: str) -> list[str]:
    """Write the task as TRL's script reads it, and return the script's command line."""
    adapter = AdapterConfig()
    spec = {
        "model": str(setting.model),
        "dtype": phase.dtype,
        "threads": setting.arena.threads,
        "gpu": task.gpu,
        "seed": setting.seed,
        "rows": phase.pairs.texts,
        "steps": phase.pairs.steps,
        "batch_size": task.batch_size,
        "micro_batch_size": task.micro_batch_size,
        "learning_rate": _LEARNING_RATES[phase.adapter],
        "beta": _BETA,
        "adapter": {"r": adapter.rank, "lora_alpha": adapter.alpha} if phase.adapter == "lora" else None,
        "precomputes": peer == "tuned",
        "output_dir": str(setting.arena.folder / "trl"),
    }
    path = setting.arena.folder / f"{peer}-{phase.name}.json"
    path.write_text(json.dumps(spec))
    return ["-P", str(SCRIPT), str(path)]


def measure_ours(task: PreferenceTask, phase: Phase, setting: Setting) -> Measured:
    """Run our DPO; where an earlier phase had the same pairs and format, it finds the reference kept."""
    storage = setting.arena.folder / "ours"
    arguments = our_arguments(task, phase, setting, storage)
    ran = setting.arena.run(f"ours-{phase.name}", [*setting.ours, *arguments])
    line = json.loads(ran.lines[-1])
    curves = read_curves(storage, line["run_id"])
    steps = [{"loss": loss, "seconds": curves["time/step"][n][1]} for n, (_, loss) in enumerate(curves["train/loss"])]
    reference = line["metrics"]["time/reference"], int(line["metrics"]["rows/scored"])
    gpu_bytes = int(line["metrics"]["cost/peak_memory_bytes"]) if task.gpu else 0
    return measured(task, phase, steps, ran, *reference, gpu_bytes)


def measure_trl(task: PreferenceTask, phase: Phase, setting: Setting, peer: str) -> Measured:
    """Run TRL's DPOTrainer: as it comes, or tuned."""
    command = [sys.executable, *trl_arguments(task, phase, setting, peer)]
    ran = setting.arena.run(f"{peer}-{phase.name}", command, keeps_memory=peer == "tuned")
    *steps, last = (json.loads(line) for line in ran.lines)
    computed = len(phase.pairs.texts) if peer == "tuned" else 0
    return measured(task, phase, steps, ran, last["reference_seconds"], computed, last["gpu_bytes"])


def measured(
    task: PreferenceTask,
    phase: Phase,
    steps: Sequence[Mapping[str, float]],
    ran: Ran,
    seconds: float,
    pairs: int,
    gpu_bytes: int = 0,
) -> Measured:
    """Return what counts of one side's steps, each with its ``loss`` and ``seconds``."""
    expected = phase.pairs.steps
    assert len(steps) == len(ran.laps) == expected, f"{len(steps)} steps, {len(ran.laps)} peaks for {expected} steps"
    losses, spent = [own["loss"] for own in steps], [own["seconds"] for own in steps]
    return Measured(
        losses,
        spent[task.warmup :],
        ran.laps[task.warmup :],
        ran.peak,
        ran.peak_by_process,
        reference_seconds=seconds,
        reference_pairs=pairs,
        gpu_bytes=gpu_bytes,
    )


def run(task: PreferenceTask, setting: Setting) -> Outcome:
    """Run all sides of all phases.

    Raises:
        UserError: there are too few pairs.
    """
    from components.benchmarks.loss_figure import loss_figure
    from components.training.settings import weight_dtype

    dtype = weight_dtype(task.dtype, task.gpu)
    found: dict[str, Sides] = {}
    made = make_all_pairs(task, setting, dtype)
    for adapter in task.adapters:
        for own, pairs in made.items():
            phase = Phase(adapter, own, pairs)
            peers = PEERS if own == dtype else ("tuned",)
            found[phase.name] = {"ours": measure_ours(task, phase, setting)}
            found[phase.name] |= {peer: measure_trl(task, phase, setting, peer) for peer in peers}
    losses = {name: {side: own.losses for side, own in sides.items()} for name, sides in found.items()}
    return Outcome(page(found), figures(task, found, dtype), {"losses.png": loss_figure(losses)})


def make_all_pairs(task: PreferenceTask, setting: Setting, dtype: str) -> dict[str, Pairs]:
    """Return the pairs for each number format that is run: ``dtype`` for speed, and float32 for parity."""
    lengths = {dtype: (task.updates, task.max_tokens)}
    if task.parity_steps and dtype != "float32":
        lengths["float32"] = (task.parity_steps, task.parity_tokens)
    uri = str(setting.arena.folder / "lancedb")
    return {
        own: make_pairs(
            Path(task.pairs),
            setting.model,
            f"{uri}#pairs_{own}",
            steps=steps,
            batch_size=task.batch_size,
            max_tokens=tokens,
            window=task.length_window,
            seed=setting.seed,
        )
        for own, (steps, tokens) in lengths.items()
    }


def figures(task: PreferenceTask, found: Mapping[str, Sides], dtype: str) -> dict[str, float]:
    """Return the comparisons of speed and memory, and how far losses are apart at most."""
    made: dict[str, float] = {}
    for adapter in task.adapters:
        sides, label = found[f"{adapter}-{dtype}"], "lora" if adapter == "lora" else "full"
        ours = sides["ours"]
        for peer in PEERS:
            name, other = f"dpo.{label}.{peer}", sides[peer]
            made |= compare(f"{name}.pairs_per_s", ours.seconds, other.seconds, work=task.batch_size, paired=True)
            made |= compare(f"{name}.peak_memory", ours.peaks, other.peaks, paired=True)
        for side, own in sides.items():
            made[f"whole_peak.{label}.{side}"] = float(own.whole_peak)
            if task.gpu:
                made[f"gpu_bytes.{label}.{side}"] = float(own.gpu_bytes)
            if own.reference_pairs:
                made[f"reference_pairs_per_s.{label}.{side}"] = own.reference_pairs / own.reference_seconds
        for phase, own_sides in found.items():
            if phase.startswith(f"{adapter}-"):
                made[f"loss_gap.{label}.{phase.removeprefix(f'{adapter}-')}"] = loss_gap(own_sides)
    return made


def loss_gap(sides: Sides) -> float:
    """Return how far our loss is from that of TRL tuned, at the step where it is furthest."""
    return largest_gap(sides["ours"].losses, sides["tuned"].losses)


def page(found: Mapping[str, Sides]) -> str:
    """Return everything that was measured, as JSON."""
    packages = {name: importlib.metadata.version(name) for name in PACKAGES}
    runs = {phase: {side: asdict(own) for side, own in sides.items()} for phase, sides in found.items()}
    return json.dumps({**runs, "packages": packages}, indent=2)


def plan(task: PreferenceTask) -> dict[str, str]:
    """Return what each side does."""
    sides = [f"ours and TRL {', TRL '.join(PEERS)}".replace("_", " ")]
    parity = f"{task.parity_steps} steps of pairs of at most {task.parity_tokens} tokens, ours and TRL tuned"
    return {
        "sides": f"{sides[0]}, for {', '.join(task.adapters)}",
        "each side": f"{task.updates} steps x {task.batch_size} pairs, {task.warmup} of the steps to warm up",
        "pairs": f"{task.pairs}, at most {task.max_tokens} tokens a side",
        "in float32": parity if task.parity_steps else "nothing",
    }
