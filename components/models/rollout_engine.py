"""A vLLM engine that draws answers from a policy whose weights change: the one place that imports vllm.

The engine answers two questions that a training run lives by: which weights it holds (a checksum over every byte
that it loaded), and how likely it found each token that it drew.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from components.models.engine import EngineConfig, cpu_environment, engine_arguments

_MEMORY_VIEW = {1: "uint8", 2: "uint16", 4: "uint32", 8: "uint64"}


def checksum(weights: Iterable[tuple[str, Any]]) -> str:
    """Return the SHA-256 (hex) over the names and bytes of (name, tensor) in the order of the names."""
    total = hashlib.sha256()
    for name, weight in sorted(weights, key=lambda item: item[0]):
        total.update(name.encode() + b"\0")
        total.update(memoryview(_as_array(weight)).cast("B"))
    return total.hexdigest()


def ship(weights: Iterable[tuple[str, Any]]) -> dict[str, tuple[str, Any]]:
    """Return the weights as plain arrays that Ray's object store shares without a copy: name → (dtype, array)."""
    return {name: (str(weight.dtype).removeprefix("torch."), _as_array(weight)) for name, weight in weights}


def _as_array(weight: Any) -> Any:
    """Return a tensor's memory as an array of integers of the same width: NumPy has no bfloat16."""
    import torch

    width = getattr(torch, _MEMORY_VIEW[weight.element_size()])
    return weight.detach().cpu().contiguous().view(width).numpy()


def _unship(shipped: Mapping[str, tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
    import torch

    for name, (dtype, array) in shipped.items():
        yield name, torch.from_numpy(array.copy()).view(getattr(torch, dtype))


class RolloutEngine:
    """A Ray actor with one vLLM engine."""

    def __init__(self, model: str, engine: dict[str, Any], on_gpu: bool) -> None:
        """Start the engine on the model folder ``model``; ``engine`` holds an EngineConfig's fields."""
        from vllm import LLM

        arguments = engine_arguments(EngineConfig(**engine), on_gpu)
        # The log-probability of what was drawn, at the temperature that it was drawn at: what PPO's ratio is over.
        self.llm = LLM(model=model, logprobs_mode="processed_logprobs", max_logprobs=1, **arguments)
        self.version, self.held = -1, ""

    def state(self) -> tuple[int, str]:
        """Return the version and the checksum of the weights that were loaded last; -1 before any were."""
        return self.version, self.held

    def load(self, shipped: Mapping[str, tuple[str, Any]], version: int) -> str:
        """Take over weights, forget what was cached under the old ones, and return the checksum of the new."""
        weights = list(_unship(shipped))
        self.llm.collective_rpc("reload_weights", kwargs={"weights_iterator": iter(weights)})
        self.llm.apply_model(_renew_tied_head)
        if not self.llm.reset_prefix_cache():
            raise RuntimeError("the engine keeps what it computed under the old weights: a request still runs")
        self.version, self.held = version, checksum(weights)
        return self.held

    def generate(
        self, prompts: Sequence[Sequence[int]], samples: int, settings: Mapping[str, Any], seed: int, version: int = -1
    ) -> list[list[tuple[list[int], list[float], bool]]] | None:
        """Return ``samples`` answers to each prompt (token ids): ids, their log-probabilities, whether it ended.

        Args:
            settings: temperature, max_tokens, min_tokens and stop_token_ids, as vLLM's SamplingParams has them.
            seed: draws are the same for the same prompts, weights and seed.
            version: of the weights that it is to draw with, -1 for whatever it holds. If it holds others, as an engine
                that was restarted between two questions does, it draws nothing and returns None.
        """
        from vllm import SamplingParams, TokensPrompt

        if version not in (-1, self.version):
            return None
        requests = [
            (TokensPrompt(prompt_token_ids=list(prompt)), p, k)
            for p, prompt in enumerate(prompts)
            for k in range(samples)
        ]
        parameters = [
            SamplingParams(**settings, logprobs=0, detokenize=False, seed=(seed * 1_000_003 + p * samples + k) % 2**31)
            for _, p, k in requests
        ]
        outputs = self.llm.generate([prompt for prompt, _, _ in requests], parameters, use_tqdm=False)
        answers = [_read(output.outputs[0]) for output in outputs]
        return [answers[p * samples : (p + 1) * samples] for p in range(len(prompts))]

    def process_id(self) -> int:
        """Return the id of the engine's process."""
        return os.getpid()


def _renew_tied_head(model: Any) -> None:
    """Let an output head that is the embedding see the new one: vLLM's reload leaves the copy that a CPU packed."""
    if not getattr(model.config, "tie_word_embeddings", False):
        return
    head = model.lm_head
    head.weight = model.model.embed_tokens.weight
    head.quant_method.process_weights_after_loading(head)


def _read(output: Any) -> tuple[list[int], list[float], bool]:
    ids = list(output.token_ids)
    logprobs = [float(place[token].logprob) for place, token in zip(output.logprobs, ids, strict=True)]
    return ids, logprobs, output.finish_reason == "stop"


def start(name: str, namespace: str, model: str, engine: EngineConfig, *, gpus: float) -> Any:
    """Start a rollout engine as a named Ray actor that Ray restarts if it dies, and return its handle.

    Without ``gpus`` it runs on the CPU and reserves no core: engine and trainer take turns on the same ones.
    """
    import ray

    from components.models.engine import engine_threads

    threads = engine_threads(engine)
    # In one process: weights then go to the engine as they are, without a copy for another process.
    in_process = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_STREAM": "ext://sys.stderr"}
    environment = in_process if gpus else cpu_environment(engine, threads)
    actor = ray.remote(RolloutEngine).options(
        name=name,
        namespace=namespace,
        num_cpus=0,
        num_gpus=gpus,
        max_restarts=-1,
        max_task_retries=0,
        runtime_env={"env_vars": environment},
    )
    return actor.remote(model, engine.model_dump(), gpus > 0)
