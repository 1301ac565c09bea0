"""What ``--plan`` says of resources: what is asked for, and with a cluster's file where it would lie and its price."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from components.config import WorkflowConfig
from components.orchestration.graph import StepConfig
from components.orchestration.needs import Need, needs_of
from components.orchestration.pools import ClusterFile, Placed, hourly, most_at_once, place, read_cluster, shown


def resources(config: WorkflowConfig, schema_of: Callable[[str], type[WorkflowConfig]] | None) -> list[str]:
    """Return what a workflow, or each step of a pipeline, asks Ray for; a line each.

    Args:
        schema_of: as ``cluster_plan``'s.
    """
    if schema_of is None:
        return _asked(type(config), config.model_dump()) or ["one process of its own, no Ray"]
    return [
        f"{name}, {line}"
        for name, step in _steps(config).items()
        for line in _asked(schema_of(step.workflow), step.config)
    ]


def _asked(schema: type[WorkflowConfig], values: Mapping[str, Any]) -> list[str]:
    return [_size(need) for need in needs_of(schema, values, has_gpus=False)]


def _size(need: Need) -> str:
    note = f"{need.note}, " if need.note else ""
    return f"{need.role}: {need.count} x {shown(need.each)}, {note}{need.placement}"


def cluster_plan(
    path: str, config: WorkflowConfig, schema_of: Callable[[str], type[WorkflowConfig]] | None
) -> list[str]:
    """Return the plan's lines for a workflow, or for each step of a pipeline.

    Args:
        schema_of: workflow name → its config class; a pipeline has one.

    Raises:
        UserError: the file is no cluster's, or the cluster is too small.
    """
    cluster = read_cluster(path)
    lines = [f"# cluster {path} ({cluster.kind})"]
    at_once = getattr(config, "max_parallel", 1)
    if schema_of is None:
        placed = [_placed(type(config), config.model_dump(), cluster)]
        lines += _groups(placed[0], cluster)
    else:
        placed = []
        for name, step in _steps(config).items():
            found = _placed(schema_of(step.workflow), step.config, cluster)
            placed.append(found)
            lines += [f"{name}, {line}" for line in _groups(found, cluster)]
    nodes = _together([most_at_once(each) for each in placed], at_once, cluster)
    return [*lines, *_totals(placed, nodes, cluster)]


def _steps(config: Any) -> dict[str, StepConfig]:
    """Return a pipeline's steps, those of its loops once."""
    return {**config.steps, **{name: step for loop in config.loops.values() for name, step in loop.steps.items()}}


def _placed(schema: type[WorkflowConfig], values: Mapping[str, Any], cluster: ClusterFile) -> list[Placed]:
    return place(needs_of(schema, values, has_gpus=cluster.has_gpus), cluster)


def _groups(placed: Sequence[Placed], cluster: ClusterFile) -> list[str]:
    pools = {pool.name: pool for pool in cluster.pools}
    lines = []
    for group in placed:
        need = group.need
        where = " + ".join(f"{count} x {name} ({pools[name].machine})" for name, count in group.nodes.items())
        lower = [p.name for p in cluster.pools if p.name not in group.nodes and p.holds(need.each) and _gpu(p, need)]
        spot = any(pools[name].spot for name in group.nodes)
        back = f", else on {', '.join(lower)}" if spot and lower else ""
        memory = [pools[name].gpu_memory_gib for name in group.nodes if need.each.get("GPU")]
        room = f", {min(m for m in memory if m):g} GiB a GPU" if any(memory) else ""
        lines.append(f"{_size(need)}: {where}{back}{room}")
    return lines


def _gpu(pool: Any, need: Any) -> bool:
    return bool(pool.resources.get("GPU")) == bool(need.each.get("GPU"))


def _together(each: Sequence[Mapping[str, int]], at_once: int, cluster: ClusterFile) -> dict[str, int]:
    """Return pool → nodes where the ``at_once`` largest steps run at the same time, as far as the file allows."""
    most = {pool.name: pool.most for pool in cluster.pools}
    total = {name: sum(sorted((nodes.get(name, 0) for nodes in each), reverse=True)[:at_once]) for name in most}
    return {name: min(count, most[name]) for name, count in total.items() if count}


def _totals(placed: Sequence[Sequence[Placed]], nodes: Mapping[str, int], cluster: ClusterFile) -> list[str]:
    gpus = max((_gpus_at_once(groups) for groups in placed), default=0)
    lines = []
    if gpus and cluster.kind != "local":
        lines.append(f"to ask an autoscaled pool for it: ray.wait_for.GPU={gpus:g}")
    counts = {cluster.head.name: 1} | {name: count for name, count in nodes.items() if name != cluster.head.name}
    cost, counted = hourly(cluster, nodes), ", ".join(f"{count} x {name}" for name, count in counts.items())
    if cost is None:
        lines.append(f"cost an hour: unknown, as the file has no prices; {counted}")
    else:
        spot = any(pool.spot and pool.name in nodes for pool in cluster.pools)
        most = "at most " if spot else ""
        lines.append(f"cost an hour: {most}{cost:.2f} for {counted} ({cluster.prices}: check before use)")
    return lines


def _gpus_at_once(groups: Sequence[Placed]) -> float:
    most = running = 0.0
    for group in groups:
        running = (running if group.need.beside else 0.0) + group.need.count * group.need.each.get("GPU", 0.0)
        most = max(most, running)
    return most
