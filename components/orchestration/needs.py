"""What a workflow asks a cluster for, group by group, as its configuration says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from components.config import Config, parse


@dataclass(frozen=True)
class Need:
    """A group of equal actors: how many, what each takes, and how they lie on hosts."""

    role: str
    count: int
    each: Mapping[str, float]
    placement: str = "PACK"
    note: str = ""
    beside: bool = False  # runs at the same time as the group before it, on resources of its own


def needs_of(schema: type[Config], values: Mapping[str, Any], *, has_gpus: bool) -> list[Need]:
    """Return the groups of a workflow; those that are not ``beside`` one another run one after the other.

    Args:
        values: the workflow's configuration; what is left out has its default.
        has_gpus: whether the cluster has GPUs, on which engines then run that do not say where.
    """

    def section(name: str) -> Any:
        field = schema.model_fields.get(name)
        kind = field.annotation if field else None
        return parse(kind, values.get(name) or {}) if isinstance(kind, type) and issubclass(kind, Config) else None

    needs: list[Need] = []
    scale, sharding, rollout = section("scale"), section("deepspeed"), section("rollout")
    scoring, engine, embed = section("scoring"), section("engine"), section("embed")
    if scoring is not None:
        on_gpu = scoring.gpu if scoring.gpu is not None else scale is not None and scale.gpu
        needs.append(Need("reference scoring", scoring.actors, _each(scoring.cpus_per_actor, float(on_gpu))))
    if scale is not None:
        note = f"ZeRO-{sharding.stage} over {scale.workers}" if sharding is not None else ""
        shared = rollout is not None and rollout.share_gpus and scale.gpu
        role = "training and rollout" if shared else "training"
        each = _each(scale.cpus_per_worker, float(scale.gpu))
        needs.append(Need(role, scale.workers, each, scale.placement, note))
        if rollout is not None and not shared:
            own = _each(rollout.engine.cpus_per_engine, float(scale.gpu))
            needs.append(Need("rollout", rollout.engine.engines, own, note="vLLM", beside=True))
    if embed is not None:
        needs.append(Need("embedding", embed.workers or 1, _each(None, embed.gpus_per_worker)))
    if engine is not None and hasattr(engine, "replicas"):
        on_gpu = has_gpus if engine.gpu is None else engine.gpu
        gpus = engine.tensor_parallel if on_gpu else 0
        each = {"CPU": engine.cpus * max(gpus, 1), **({"GPU": float(gpus)} if gpus else {})}
        needs.append(Need("serving", engine.replicas, each, note="vLLM"))
    elif engine is not None:
        each = _each(engine.cpus_per_engine, float(has_gpus))
        needs.append(Need("generation", engine.engines, each, note="vLLM"))
    return needs


def _each(cores: float | None, gpus: float) -> dict[str, float]:
    return {"CPU": cores or 1.0, **({"GPU": gpus} if gpus else {})}
