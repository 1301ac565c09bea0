"""One PPO job: prompts in, engines started, workers run, the policy published."""

import hashlib
import json
import logging
import os
import random
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.config import UserError
from components.data import store
from components.data.chat import ChatTemplate
from components.models.adapter_base import check_on_trunk, is_adapter
from components.models.adapters import check_blocks
from components.models.engine import engines_on_gpu
from components.models.load import engine_dtype
from components.models.memory import read_shape
from components.models.rewards import RewardInfo
from components.tracking.lineage import write_lineage
from components.tracking.run import Run
from components.training.callbacks import Breach
from components.training.job import trained_folder
from components.training.launch import FOLDER, launch
from components.training.ppo.sections import Sections
from components.training.ppo.settings import RolloutConfig
from components.training.rows import Tokenized, tokenize, write_rows
from components.training.settings import weight_dtype

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prompts:
    """Prompts as ids, and the questions behind them where the judge can read them."""

    table: str
    train: Tokenized
    held_out: Tokenized | None
    figures: dict[str, float]


def read_prompts(config: Any, template: ChatTemplate, run: Run) -> Prompts:
    """Return the prompts of both splits.

    Raises:
        UserError: there are none, or the judge is asked for and the table has no questions.
    """
    table = store.pin(config.prompts)
    store.check_columns(table, ("prompt_id", "prompt"))
    run.log_dataset("prompts", table, "train")

    def convert(row: Any) -> tuple[dict[str, Any], int]:
        ids = template.prompt_ids(row["prompt"])
        if config.reward.judge and "answerable" not in row:
            raise UserError(f"{table} has no questions that the judge can read: set reward.judge=0")
        question = row.get("question") or row["prompt"][-1]["content"]
        kept = json.dumps(row, default=str) if "answerable" in row else ""
        return {"prompt_ids": ids, "question": question, "question_row": kept}, len(ids)

    limit = {"max_tokens": config.max_prompt_tokens, "limit_key": "max_prompt_tokens"}
    train = tokenize(
        _once(store.read(table, where="split = 'train'")), convert, what=f"split 'train' of {table}", **limit
    )
    test = _once(store.read(table, where="split = 'test'"))
    test = random.Random(config.seed).sample(test, min(config.eval_rows, len(test)))
    what = f"split 'test' of {table}"
    held_out = tokenize(test, convert, what=what, **limit) if test else None
    if config.guards.rewards and held_out is None:
        raise UserError(
            f"guards.rewards are asked about held-out prompts: {what} has none, and eval_rows must not be 0"
        )
    if held_out and config.blind:
        logger.warning("guards.hacking acts on disagreement alone: %s", config.blind)
    figures = {"rows/train": float(len(train.rows)), "rows/dropped": float(train.dropped)}
    return Prompts(table, train, held_out, figures)


def _once(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return each prompt once: a table of pairs has it once a pair."""
    return list({row["prompt_id"]: row for row in rows}.values())


def check_rewards(config: Any, template: ChatTemplate, base_digest: str) -> dict[str, Any]:
    """Return the reward models' identities.

    Raises:
        UserError: one was trained with another chat template, or on a base that changed, or none of them is of the
            kind that the configuration builds on.
    """
    marks, kinds, on_trunk = [], set(), False
    for folder in map(Path, config.rewards):
        info = RewardInfo.read_for(folder, template.digest)
        page = folder / "lineage.json"
        marks.append(json.loads(page.read_text())["lineage_id"] if page.is_file() else info.base_digest)
        kinds.add(info.kind)
        if config.adapter.name != "none":
            check_on_trunk(folder, base_digest)
            on_trunk |= is_adapter(folder) and info.base_digest == base_digest
    for folder in map(Path, config.guards.rewards):
        RewardInfo.read_for(folder, template.digest)
    if config.reward.steps and "process" not in kinds:
        raise UserError(
            "reward.steps needs a process reward model (train_reward with steps=…) in rewards: there is none"
        )
    if config.advantage.name == "gae" and config.advantage.critic == "reward" and not on_trunk:
        raise UserError(
            "advantage.critic=reward needs a reward model that is an adapter on the policy's own base: "
            "give one, or set advantage.critic=fresh"
        )
    return {"rewards": marks}


def check_gpus(config: Any, by_host: Sequence[int]) -> None:
    """Refuse a cluster on which workers would wait for GPUs that the engines hold.

    Raises:
        UserError: it has fewer GPUs than engines and workers together, or than pairs of them that share one; or
            two workers could come to share one.
    """
    engines, workers, gpus = config.rollout.engine.engines, config.scale.workers, sum(by_host)
    if not config.scale.gpu:
        return
    if config.rollout.share_gpus:
        if engines != workers:
            raise UserError(
                f"rollout.share_gpus gives each worker's GPU an engine: set rollout.engine.engines={workers}"
            )
        if gpus < workers:
            raise UserError(f"{workers} pairs of worker and engine need a GPU each, the cluster has {gpus}: set fewer")
        if gpus > workers and sum(own > 0 for own in by_host) > 1:
            raise UserError(
                f"on several hosts rollout.share_gpus needs as many workers as GPUs, or two workers may get one: set "
                f"scale.workers={gpus} and rollout.engine.engines={gpus}"
            )
    elif gpus < engines + workers:
        raise UserError(
            f"{engines} rollout engines and {workers} workers need a GPU each, the cluster has {gpus}: set fewer, "
            f"rollout.share_gpus=true, or ray.wait_for.GPU={engines + workers} where a pool can bring them"
        )


def train(config: Any, run: Run, model: Path, data: Prompts, facts: dict[str, Any]) -> dict[str, Any]:
    """Start the engines and run the loop on Ray Train workers; return its figures.

    Raises:
        UserError: the cluster is too small, or the run's folder holds checkpoints of something else.
        Breach: an invariant of training broke.
    """
    import ray

    from components.training.ppo.experience import prompt_order
    from components.training.ppo.worker import ppo_loop

    scale = config.scale
    check_gpus(config, [int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]])
    engines_on_gpu(scale.gpu)
    check_blocks(config.adapter, read_shape(model).layers)
    dtype = weight_dtype(config.optim.dtype, scale.gpu)
    sections = Sections(**{name: getattr(config, name) for name in Sections.model_fields})
    wanted = config.update.iterations * config.rollout.prompts
    rows = [data.train.rows[row] for row in prompt_order(len(data.train.rows), wanted, config.seed)]
    told = [sections.model_dump(mode="json"), config.combine.model_dump(), config.seed, dtype]
    settings = json.dumps(told, sort_keys=True)
    identity = {
        **{name: str(value) for name, value in facts.items()},
        "settings": hashlib.sha256(settings.encode()).hexdigest()[:16],
    }
    guards = config.guards.in_formats(dtype, engine_dtype(config.rollout.engine.dtype, scale.gpu), gpu=scale.gpu)
    with (
        _keeping_what_was_noted(run),
        _engines(config.rollout, model, run, dtype, on_gpu=scale.gpu) as (names, namespace),
    ):
        return launch(
            ppo_loop,
            {
                "model": str(model),
                "rewards": list(config.rewards),
                "base_digest": facts["base_digest"],
                "config": sections.model_copy(update={"guards": guards}).model_dump(),
                "combine": config.combine.model_dump(),
                "judge": bool(config.reward.judge),
                "engines": names,
                "namespace": namespace,
                "train": write_rows(rows, run.dir / "rows" / "train.parquet"),
                "eval": write_rows(data.held_out.rows, run.dir / "rows" / "eval.parquet") if data.held_out else None,
                "out": str(trained_folder(run.dir)),
                "samples": str(run.dir / "samples.jsonl"),
                "scores": str(run.dir / "scores"),
                "evidence": str(run.dir / "evidence.json"),
                "run": run.handle(),
                "dtype": dtype,
                "seed": config.seed,
                "arguments": {"use_cpu": not scale.gpu},
            },
            scale,
            run.dir,
            identity,
            gpus_each=config.rollout.gpus[1],
        )


@contextmanager
def _keeping_what_was_noted(run: Run) -> Iterator[None]:
    """Log what the workers wrote down, and the evidence, where an invariant broke: nothing is published then."""
    try:
        yield
    except Breach:
        for noted in _noted(run):
            try:
                run.log_artifact(noted)
            except Exception as error:  # what broke in training is what has to be told
                logger.warning("%s is not in MLflow: %s", noted, error)
        raise


def _noted(run: Run) -> list[Path]:
    """Return what the workers wrote: answers to held-out prompts, what each answer in training got, evidence."""
    return [path for name in ("samples.jsonl", "scores", "evidence.json") if (path := run.dir / name).exists()]


@contextmanager
def _engines(
    config: RolloutConfig, model: Path, run: Run, dtype: str, *, on_gpu: bool
) -> Iterator[tuple[list[str], str]]:
    """Start the rollout engines, wait until they answer, and end them with the block.

    On a GPU vLLM would take the format that the model is stored in, which need not be ``dtype``, the trainer's.
    """
    import ray

    from components.models import rollout_engine

    namespace = f"ppo-{run.id}"
    gpus, engine = config.gpus[0] if on_gpu else 0.0, config.engine_beside_training
    if on_gpu and engine.dtype == "auto":
        engine = engine.model_copy(update={"dtype": dtype})
    actors = {
        f"engine-{number}": rollout_engine.start(f"engine-{number}", namespace, str(model), engine, gpus=gpus)
        for number in range(config.engine.engines)
    }
    try:
        for name, actor in actors.items():
            try:
                ray.get(actor.state.remote(), timeout=config.deadline_s)
            except ray.exceptions.GetTimeoutError as error:
                raise RuntimeError(f"rollout {name} did not start within {config.deadline_s:.0f} s") from error
        yield list(actors), namespace
    finally:
        for actor in actors.values():
            ray.kill(actor)


def publish(config: Any, run: Run, model: Path, data: Prompts, facts: dict[str, Any]) -> dict[str, str]:
    """Move the policy to its final name, in one step, and drop what only a restart would need."""
    output = "model" if config.adapter.name == "none" else "adapter"
    facts = {**facts, "adapter": config.adapter.model_dump(mode="json"), "advantage": config.advantage.name}
    trained, target = trained_folder(run.dir), run.dir / output
    parents = [model, data.table, *config.rewards]
    write_lineage(trained, kind=output, run=run, parents=parents, facts=facts)
    shutil.rmtree(target, ignore_errors=True)
    os.replace(trained, target)
    small = [target] if output == "adapter" else []  # runs:/<id>/adapter
    for noted in (*small, *_noted(run)):
        run.log_artifact(noted)
    for leftover in (FOLDER, "rows"):
        shutil.rmtree(run.dir / leftover, ignore_errors=True)
    outputs = {output: str(target)} | ({"base": str(model)} if output == "adapter" else {})
    samples = run.dir / "samples.jsonl"
    return outputs | ({"samples": str(samples)} if samples.exists() else {})
