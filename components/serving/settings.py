"""What a serve config says about engines, names and limits."""

from typing import Literal

from pydantic import model_validator

from components.config import AdapterRef, Config, Field, StrategyOptions, UserError
from components.reasoning.budget import Limits
from components.retrieval.guard import Guard

Mode = Literal["dense", "text", "hybrid", "hierarchical", "graph", "communities", "auto"]


class AdapterOptions(Config):
    """How many adapters an engine carries beside its base, and which ones it takes."""

    at_once: int = Field(0, ge=0, description="adapters that one batch may mix; 0 serves the base alone")
    kept: int = Field(8, ge=1, description="adapters that an engine keeps in memory; the others it reads again")
    max_rank: Literal[8, 16, 32, 64, 128, 256] = Field(
        16, description="highest rank; room for it is taken at the start"
    )
    inexact: bool = Field(
        False,
        description="also take adapters that were trained on the served weights in another number format: before these "
        "were quantized, or in 4 bits; merge_adapter measures how far off that is",
    )


class EngineOptions(Config):
    """How the model is run; the defaults fit one machine, with or without a GPU."""

    replicas: int = Field(1, ge=1, description="copies of the engine")
    max_model_len: int = Field(2048, ge=64, description="longest prompt plus answer, in tokens")
    max_sequences: int = Field(32, ge=1, description="requests that a replica works on at a time")
    max_queued: int = Field(64, ge=1, description="requests that may wait before new ones get 429")
    retry_after_s: int = Field(3, ge=1, description="seconds that a refused client is told to wait")
    kv_cache_gib: int = Field(1, ge=1, description="key-value cache of a CPU engine, in GiB")
    gpu: bool | None = Field(
        None, description="run on GPUs; none: if the cluster has one by then; true also waits for a pool to bring one"
    )
    threads: int | None = Field(None, ge=1, description="threads of a CPU engine; none takes all its machine has")
    cpus: float = Field(1.0, gt=0, description="CPUs that Ray reserves for a replica")
    gpu_memory_share: float = Field(0.85, gt=0, le=1, description="share of a GPU's memory to take")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="number format; auto is the model's on a GPU, on a CPU bfloat16 if it multiplies it"
    )
    tensor_parallel: int = Field(1, ge=1, description="GPUs that one replica is spread over")
    adapters: AdapterOptions = Field(AdapterOptions(), description="adapters on this engine's model")
    stream_interval_ms: int = Field(20, ge=0, description="how long streamed tokens are gathered before they are sent")


class SearchOptions(Config):
    """How passages are found for a name."""

    passages: int = Field(3, ge=1, le=20, description="passages that go into the prompt")
    passage_words: int = Field(45, ge=10, description="longest passage in the prompt, in words, by whole sentences")
    prompt_tokens: int | None = Field(
        None,
        ge=64,
        description="longest prompt, in tokens: passages without room in it are left out, the last first; none: what "
        "engine.max_model_len leaves beside the answer",
    )
    mode: Mode = Field(
        "hybrid",
        description="by meaning (vectors), by words (BM25), by both, fused by rank; within the best documents; along "
        "the names in passages; by both after summaries of groups of passages; or as the index's exam chose",
    )
    where: str | None = Field(None, description="SQL condition on the index's columns, as corpus = 'x'")
    abstain: bool = Field(
        False, description="say that one does not know where what was found is below the exam's threshold; mode auto"
    )
    citations: Literal["check", "repair"] = Field(
        "check", description="tell which citations hold, or also move a wrong mark to what supports it, and drop others"
    )
    guard: Guard = Field("quote", description="what becomes of text in passages that gives orders to the model")

    @model_validator(mode="after")
    def _the_threshold_is_the_exams(self) -> "SearchOptions":
        if self.abstain and self.mode != "auto":
            raise UserError(f"abstain goes by the exam's threshold, which is not for mode '{self.mode}': choose auto")
        return self


class ServedName(Config):
    """One name under /v1/models: the engine, perhaps an adapter, perhaps an index, and a reasoning strategy."""

    name: str = Field(description="what clients put into `model`", min_length=1)
    adapter: AdapterRef | None = Field(
        None,
        description="what answers instead of the bare model: models:/name@alias (followed when it moves), "
        "models:/name/version, runs:/…, or an adapter's folder",
    )
    search: SearchOptions | None = Field(None, description="how to search the index; none answers without it")
    strategy: str = Field("direct", description="a file of components/reasoning/strategies")
    options: StrategyOptions = Field({}, description="the strategy's own options")
    max_tokens: int = Field(256, ge=1, description="longest answer where the client sets no limit, in tokens")
    temperature: float = Field(0.0, ge=0, le=2, description="temperature where the client sets none")
    budget: Limits = Field(Limits(), description="the most that a request may spend; clients can lower it")


class KeyLimits(Limits):
    """The most that an API key may spend in a window, all its requests together; none is no limit."""

    requests: int | None = Field(None, ge=1, description="requests that were answered")
    seconds: float | None = Field(None, gt=0, description="seconds that its requests took, added up")


class KeyBudgets(Config):
    """What API keys may spend, counted for all replicas together in windows of a fixed length."""

    window_s: float = Field(60.0, gt=0, description="length of a window, which a key's first request opens, in seconds")
    each: KeyLimits = Field(KeyLimits(), description="limits of every key that has none of its own")
    named: dict[str, KeyLimits] = Field({}, description="limits of single keys, by the name in front of their colon")
    share: float = Field(
        0.25,
        gt=0,
        le=1,
        description="of a limit, what a request may take that nothing else bounds; the rest is for others beside it",
    )

    def of(self, name: str) -> KeyLimits:
        """Return the limits of a key."""
        return self.named.get(name, self.each)

    def limited(self) -> bool:
        """Return whether any key has a limit."""
        return any(limits != KeyLimits() for limits in (self.each, *self.named.values()))
