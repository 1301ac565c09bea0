"""Both things that make a search better, trained from one YAML: a cross-encoder, or a map of query vectors."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from components.config import Config, Field, UserError
from components.models import sources
from components.models.adapters import AdapterConfig
from components.models.query_adapter import Examples
from components.training import job, query_adapter, reranker
from components.training.deepspeed import DeepSpeedConfig
from components.training.query_adapter import QueryAdapterConfig
from components.training.reranker import CrossEncoderConfig
from components.training.rows import steps_of
from components.training.settings import Recipe, SaveConfig, ScaleConfig, accumulation

if TYPE_CHECKING:
    from components.tracking.run import Run


class RankingSaveConfig(SaveConfig):
    """When checkpoints are written: steps are short here."""

    every: int = Field(50, ge=1, description="optimizer steps between two checkpoints")


class RankingSections(Config):
    """What is trained, and on what: sections of train_reranker's YAML."""

    kind: Literal["cross_encoder", "adapter"] = Field(
        "cross_encoder", description="cross_encoder reads question and passage together; adapter maps query vectors"
    )
    cross_encoder: CrossEncoderConfig = Field(CrossEncoderConfig(), description="only with kind=cross_encoder")
    adapter: QueryAdapterConfig = Field(QueryAdapterConfig(), description="only with kind=adapter")
    deepspeed: DeepSpeedConfig = Field(DeepSpeedConfig(), description="how training is sharded: stages 0 to 2")
    scale: ScaleConfig = Field(ScaleConfig(), description="how many workers train, and on what")
    save: RankingSaveConfig = Field(RankingSaveConfig(), description="when checkpoints are written")

    @property
    def output(self) -> str:
        """What training makes: the name of the output and of its folder."""
        return "query_adapter" if self.kind == "adapter" else "reranker"

    @property
    def key(self) -> str:
        """The key of a search that takes the output."""
        return "query_adapter" if self.kind == "adapter" else "rerank"

    def recipe(self, seed: int) -> Recipe:
        """Return how it is trained: all weights.

        Raises:
            UserError: the batch cannot be shared out over the workers, or the weights cannot be sharded so.
        """
        if self.deepspeed.stage == 3:
            raise UserError(
                "deepspeed.stage=3 divides the weights, and sentence-transformers saves whole ones: use 0 to 2"
            )
        optim = self.adapter.optim if self.kind == "adapter" else self.cross_encoder.optim
        return Recipe(AdapterConfig(name="none"), optim, self.deepspeed, self.scale, self.save, seed)


@dataclass(frozen=True)
class Start:
    """What training begins with: the cross-encoder's model, or the embedder whose query vectors are mapped."""

    model: Path
    rival: Path | None  # the model where it can rerank already, and so has to be surpassed


def start_of(config: RankingSections, embedder: Path, cache: Path) -> Start:
    """Return what training begins with.

    Raises:
        UserError: there is no such model, or it cannot become a reranker.
    """
    if config.kind == "adapter":
        return Start(embedder, None)
    model = sources.resolve(config.cross_encoder.model, cache)
    return Start(model, model if reranker.is_reranker(model, config.cross_encoder.max_tokens) else None)


def train(
    config: RankingSections,
    start: Start,
    run: "Run",
    *,
    index: str,
    seed: int,
    texts: Callable[[], list[dict[str, Any]]],
    vectors: Callable[[], Examples],
) -> dict[str, float]:
    """Train on Ray Train workers and return the figures; the result lies in ``job.trained_folder``.

    Args:
        index: pinned reference of what is searched.
        texts: returns a cross-encoder's rows, and
        vectors: an adapter's; only one of them is called.

    Raises:
        UserError, Breach: as ``job.train``.
    """
    recipe = config.recipe(seed)
    if config.kind == "adapter":
        digest = sources.digest(start.model, run.cache)
        return query_adapter.train(vectors(), config.adapter, recipe, embedder=digest, run=run, index=index)
    return reranker.train(texts(), config.cross_encoder, recipe, model=start.model, run=run, index=index)


def settle(
    config: RankingSections, start: Start, run: "Run", *, index: str, seed: int, kept: bool, facts: dict[str, Any]
) -> dict[str, Any]:
    """Publish what was trained if it is kept, else remove it; return the output, which is none then."""
    if not kept:
        job.discard(run.dir)
        shutil.rmtree(run.dir / config.output, ignore_errors=True)  # of an earlier run of the same step
        return {config.output: None}
    section = config.adapter if config.kind == "adapter" else config.cross_encoder
    facts = {**facts, "base_digest": sources.digest(start.model, run.cache), "recipe": section.model_dump(mode="json")}
    return dict(job.publish(run, config.recipe(seed), start.model, index, facts, name=config.output))


def plan(config: RankingSections, seed: int, questions: int) -> dict[str, Any]:
    """Return workers and steps for at most so many training questions.

    Raises:
        UserError: as ``recipe``.
    """
    recipe = config.recipe(seed)
    optim, scale = recipe.optim, recipe.scale
    cores = f"{scale.cpus_per_worker} each" if scale.cpus_per_worker else "the cluster's, shared out"
    steps = steps_of(questions, optim.epochs, optim.batch_size)
    return {
        "workers": f"{scale.count} with {'a GPU' if scale.gpu else 'no GPU'}, cores: {cores}",
        "forward passes a step": accumulation(optim, scale.workers),
        "steps": f"at most about {steps} of {optim.batch_size} questions, from about {questions} to train on",
    }
