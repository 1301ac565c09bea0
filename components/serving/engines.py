"""The only place that starts ``ray.serve.llm``: one deployment that runs a model with vLLM.

Imported inside functions only, as importing it costs seconds.
"""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from ray.serve.llm import LLMConfig, LLMServer, build_llm_deployment

from components.serving.settings import EngineOptions
from components.serving.turns import Turns

ENGINE = "engine"  # the engine's own model id, which clients do not see
logger = logging.getLogger(__name__)


class Engine(LLMServer):
    """Ray's LLM server, ready only once it has answered, that takes and gives plain values."""

    async def __init__(  # type: ignore[misc]
        self, llm_config: LLMConfig, threads: int | None, adapters: Sequence[dict[str, str]]
    ) -> None:
        if os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
            bind_threads(threads)
        self._running, self._started, self._cancelled = 0, 0, 0
        self._attaching, self._attached = asyncio.Lock(), set[str]()
        self._turns = Turns()
        self._scores_alone = needs_turns(llm_config.engine_kwargs)
        await super().__init__(llm_config)
        await self._warm_up()
        for adapter in adapters:
            if unread := await self.attach(adapter):
                raise RuntimeError(f"the engine does not take the adapter in {adapter['folder']}: {unread}")

    async def generate(
        self, body: dict[str, Any], kind: str, adapter: dict[str, str] | None = None
    ) -> AsyncIterator[dict[str, Any]]:
        """Run one OpenAI request of ``kind`` chat or completion, in a plain body.

        ``adapter`` (its id and folder) answers instead of the bare model; a replica that does not have it reads it.

        Yields ``{"lines": [...]}`` (server-sent events) when the body streams, else one ``{"response": …}``,
        or ``{"error": …}`` with vLLM's message, HTTP status as ``code``, and ``param``. Closing the generator
        stops the generation.
        """
        from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest

        try:
            schema = ChatCompletionRequest if kind == "chat" else CompletionRequest
            request = schema(**{**body, "model": adapter["id"] if adapter else ENGINE})
        except ValidationError as error:
            problem = error.errors()[0]
            param = ".".join(str(part) for part in problem["loc"]) or None
            yield {"error": {"message": problem["msg"].removeprefix("Value error, "), "code": 400, "param": param}}
            return
        if adapter and (unread := await self.attach(adapter)):
            logger.error("the adapter in %s cannot be read: %s", adapter["folder"], unread)
            yield {"error": {"message": "The engine cannot read this adapter.", "code": 500, "param": "model"}}
            return
        self._running += 1
        self._started += 1
        finished, left = False, False
        run: Any = self.chat if kind == "chat" else self.completions
        try:
            async with self._turns.taken(alone=self._scores_alone and scores_prompt(body)):
                async for item in await run(request):
                    plain = _plain(item)
                    # vLLM turns the cancellation of a request that does not stream into an error like others.
                    left = plain.get("error", {}).get("message") == "Client disconnected"
                    yield plain
            finished = not left
        finally:
            self._running -= 1
            self._cancelled += not finished

    async def attach(self, adapter: dict[str, str]) -> str:
        """Read an adapter unless this replica knows it; return what is wrong with it, which is mostly nothing.

        The engine itself drops the adapters that were not used for longest and reads them again, so none is detached.
        """
        from ray.llm._internal.serve.core.configs.llm_config import DiskMultiplexConfig

        if adapter["id"] in self._attached:
            return ""
        files = DiskMultiplexConfig(
            model_id=adapter["id"], local_path=adapter["folder"], max_total_tokens=None, lora_assigned_int_id=0
        )
        async with self._attaching:  # two first requests would both read it, and the second would fail
            if adapter["id"] in self._attached:
                return ""
            try:
                await self.engine.resolve_lora(files)
            except ValueError as error:
                return str(error).removeprefix("Failed to load lora model: ")
            self._attached.add(adapter["id"])
        return ""

    async def load(self) -> dict[str, int]:
        """Return the requests that run now, and how many were started and given up by their clients so far."""
        return {"running": self._running, "started": self._started, "cancelled": self._cancelled}

    async def _warm_up(self) -> None:
        """Take the paths that requests take, so that no user pays for the first time."""
        messages = [{"role": "user", "content": "Say hello."}]
        for stream in (False, True):
            body = {"messages": messages, "max_tokens": 4, "temperature": 0.0, "stream": stream}
            async for part in self.generate(body, "chat"):
                if "error" in part:
                    raise RuntimeError(f"the engine does not answer: {part['error']['message']}")
        self._started = 0


def needs_turns(engine_kwargs: Mapping[str, Any]) -> bool:
    """Return whether requests that score their prompt must be alone in the engine.

    On a CPU, vLLM 0.32 computes the adapters' share of the logits of all of a prompt's places as if they were those of
    the requests in the batch: with two of these the shapes do not fit, and the engine dies.
    """
    return bool(engine_kwargs.get("enable_lora")) and bool(os.environ.get("VLLM_CPU_KVCACHE_SPACE"))


def scores_prompt(body: Mapping[str, Any]) -> bool:
    """Return whether a request asks for the log-probabilities of its prompt."""
    asked = body.get("logprobs") is not None and body.get("echo")
    return bool(asked) or body.get("prompt_logprobs") is not None


def bind_threads(threads: int | None) -> None:
    """Bind this process's engine to cores by number: vLLM's own choice keeps one free, half of two.

    Reads ``RAYLIGN_ENGINE_REPLICAS``: several replicas would bind the same cores, and are left to the system.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    cores = cores[:threads] if threads else cores
    alone = os.environ.get("RAYLIGN_ENGINE_REPLICAS") == "1" and cores
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores)) if alone else "nobind"
    os.environ["OMP_NUM_THREADS"] = str(len(cores) or threads or os.cpu_count())


def engine_deployment(
    model: Path, options: EngineOptions, adapters: Sequence[dict[str, str]] = (), *, on_gpu: bool
) -> Any:
    """Return the Serve application of the engine, to be bound to an ingress; it begins with these adapters."""
    config = LLMConfig(
        model_loading_config={"model_id": ENGINE, "model_source": str(model)},
        engine_kwargs=engine_arguments(options, on_gpu),
        placement_group_config={"bundles": bundles(options, on_gpu)},
        deployment_config={
            "num_replicas": options.replicas,
            "max_ongoing_requests": options.max_sequences,
            "max_queued_requests": options.max_queued,
            "health_check_period_s": 10,
            "health_check_timeout_s": 30,
            "logging_config": {"log_level": "WARNING", "enable_access_log": False},
            "graceful_shutdown_timeout_s": 10,
            "graceful_shutdown_wait_loop_s": 1,
            "ray_actor_options": {"num_cpus": 0},
        },
        runtime_env={"env_vars": environment(options, on_gpu)},
        experimental_configs={"stream_batching_interval_ms": options.stream_interval_ms},
        log_engine_metrics=True,
    )
    begin = {"threads": options.threads, "adapters": list(adapters)}
    return build_llm_deployment(config, name_prefix="", bind_kwargs=begin, deployment_cls=Engine)


def engine_arguments(options: EngineOptions, on_gpu: bool) -> dict[str, Any]:
    """Return vLLM's arguments; without a GPU it does not compile, which would take minutes."""
    from components.models.engine import whole_prompts
    from components.models.load import engine_dtype

    arguments: dict[str, Any] = {
        "max_model_len": options.max_model_len,
        "max_num_seqs": options.max_sequences,
        "enable_prefix_caching": True,
        "tensor_parallel_size": options.tensor_parallel,
        "dtype": engine_dtype(options.dtype, on_gpu),
    }
    if (adapters := options.adapters).at_once:
        arguments |= {"enable_lora": True, "max_loras": adapters.at_once, "max_lora_rank": adapters.max_rank}
        arguments["max_cpu_loras"] = max(adapters.kept, adapters.at_once)
    if on_gpu:
        return arguments | {"gpu_memory_utilization": options.gpu_memory_share}
    return arguments | whole_prompts(options.max_model_len) | {"enforce_eager": True}


def bundles(options: EngineOptions, on_gpu: bool) -> list[dict[str, float]]:
    """Return the resources that Ray reserves for one replica."""
    if on_gpu:
        return [{"GPU": 1, "CPU": options.cpus}] * options.tensor_parallel
    return [{"CPU": options.cpus}]


def environment(options: EngineOptions, on_gpu: bool) -> dict[str, str]:
    """Return the environment of a replica's process."""
    shared = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1"}
    if on_gpu:
        return shared
    replicas = {"RAYLIGN_ENGINE_REPLICAS": str(options.replicas)}
    return shared | replicas | {"VLLM_CPU_KVCACHE_SPACE": str(options.kv_cache_gib)}


def _plain(item: Any) -> dict[str, Any]:
    """Return what the engine yielded as plain values."""
    if isinstance(item, list):
        return {"lines": [line if isinstance(line, str) else f"data: {line.model_dump_json()}\n\n" for line in item]}
    if "Error" in type(item).__name__:
        return {"error": item.model_dump()["error"]}
    return {"response": item.model_dump()}
