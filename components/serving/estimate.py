"""What serving takes, as far as files tell without starting anything."""

from pathlib import Path
from typing import Any

from components.serving.settings import AdapterOptions, EngineOptions

_PROCESSES_GIB = 3.0  # Ray, Serve's controller, proxy and replicas with torch in them, measured on CPU


def estimate(model: str, engine: EngineOptions) -> dict[str, Any]:
    """Return memory and CPUs on a machine without GPU, and how many requests of full length the cache holds."""
    from components.models.load import engine_dtype
    from components.models.memory import engine_bytes, kv_cache_bytes, read_shape

    cpus = {"cpus reserved": engine.replicas * engine.cpus}
    if not (Path(model) / "config.json").is_file():
        return cpus | {"memory": f"known once {model} is here"}
    shape = read_shape(Path(model))
    value = 4 if engine_dtype(engine.dtype, on_gpu=bool(engine.gpu)) == "float32" else 2
    tokens = engine.kv_cache_gib * 2**30 // kv_cache_bytes(shape, 1, bytes_per_value=value)
    weights = engine_bytes(Path(model), value) / 2**30 + _adapters_gib(Path(model), engine.adapters, value)
    memory = engine.replicas * (weights + engine.kv_cache_gib) + _PROCESSES_GIB
    return cpus | {
        "memory": f"{memory:.1f} GiB ({weights:.2f} GiB weights and {engine.kv_cache_gib} GiB cache a replica)",
        "key-value cache": f"{tokens} tokens: {tokens // engine.max_model_len} requests of the longest kind",
    }


def _adapters_gib(model: Path, options: AdapterOptions, bytes_per_value: int) -> float:
    """Return what adapters take: room for those of a batch at the highest rank, and those that are kept."""
    from components.models.memory import lora_parameters

    if not options.at_once:
        return 0.0
    places = options.at_once + max(options.kept, options.at_once)
    return places * bytes_per_value * lora_parameters(model, options.max_rank) / 2**30
