"""A cluster's file as a plan reads it: its pools, what fits where, and what an hour of it costs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from components.config import UserError
from components.orchestration.needs import Need
from components.orchestration.nodes import ON_DEMAND, SPOT


@dataclass(frozen=True)
class Pool:
    """Nodes of one kind."""

    name: str
    machine: str
    resources: Mapping[str, float]
    most: int  # nodes that it may have
    least: int = 0  # nodes that it always has
    priority: int = 0
    spot: bool = False
    price: float | None = None  # of a node and hour
    gpu_memory_gib: float | None = None

    def holds(self, each: Mapping[str, float]) -> int:
        """Return how many actors that take ``each`` fit on a node."""
        wanted = {name: count for name, count in each.items() if count > 0}
        return min((int(self.resources.get(name, 0) // count) for name, count in wanted.items()), default=0)


@dataclass(frozen=True)
class ClusterFile:
    """What a cluster's file offers; ``head`` runs in any case."""

    kind: str
    head: Pool
    pools: tuple[Pool, ...]
    prices: str  # whose, and of when

    @property
    def has_gpus(self) -> bool:
        """Whether any pool has GPUs."""
        return any(pool.resources.get("GPU", 0) > 0 for pool in self.pools)


@dataclass
class _Node:
    """A node that is in use, and what is left of it."""

    pool: Pool
    free: dict[str, float]

    def takes(self, each: Mapping[str, float], count: int = 1) -> bool:
        return all(self.free.get(name, 0) >= wanted * count for name, wanted in each.items())

    def take(self, each: Mapping[str, float]) -> None:
        for name, wanted in each.items():
            self.free[name] = self.free.get(name, 0) - wanted


@dataclass(frozen=True)
class Placed:
    """Where a group lies, pool → nodes, and which nodes are in use by then, those of groups beside it included."""

    need: Need
    nodes: Mapping[str, int]
    in_use: Mapping[str, int]


def read_cluster(path: str) -> ClusterFile:
    """Return what the file offers; Ray's own format, or a KubeRay object.

    Raises:
        UserError: it is missing, or neither of the two.
    """
    import yaml

    if not Path(path).is_file():
        raise UserError(f"--cluster names {path}, which does not exist: there are clusters/*.yaml")
    try:
        pages = [page for page in yaml.safe_load_all(Path(path).read_text()) if isinstance(page, dict)]
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    for page in pages:
        if "provider" in page:
            return _launched(page)
        if str(page.get("apiVersion", "")).startswith("ray.io/"):
            return _kubernetes(page)
    raise UserError(f"{path} is no cluster's file: it has neither a provider nor a KubeRay object")


def place(needs: Sequence[Need], cluster: ClusterFile) -> list[Placed]:
    """Return where each group lies. Groups side by side share the nodes, others use the same ones in turn.

    Raises:
        UserError: a group fits on no pool, or on fewer nodes than it takes.
    """
    placed: list[Placed] = []
    nodes: list[_Node] = []
    for need in needs:
        nodes = nodes if need.beside else []
        own = _lay(need, cluster, nodes)
        placed.append(Placed(need, _by_pool(own), _by_pool(nodes)))
    return placed


def most_at_once(placed: Sequence[Placed]) -> dict[str, int]:
    """Return pool → the most nodes that are in use at one time."""
    names = {name for group in placed for name in group.in_use}
    return {name: max(group.in_use.get(name, 0) for group in placed) for name in sorted(names)}


def hourly(cluster: ClusterFile, nodes: Mapping[str, int]) -> float | None:
    """Return what an hour costs with these nodes, those always there and the head; none where a price is missing.

    A head that works, too, is one of the pools of its file as well, and counts once.
    """
    others = [pool for pool in cluster.pools if pool.name != cluster.head.name]
    counted = [(cluster.head, 1), *((pool, max(nodes.get(pool.name, 0), pool.least)) for pool in others)]
    if any(pool.price is None for pool, count in counted if count):
        return None
    return sum((pool.price or 0.0) * count for pool, count in counted)


def _lay(need: Need, cluster: ClusterFile, nodes: list[_Node]) -> list[_Node]:
    """Put one group on ``nodes``, which grows by those that it takes into use; return the nodes that it lies on.

    Pools of higher priority go first, then the node that is filled best; a pool that has no more nodes overflows into
    the next. Work without a GPU stays off nodes with one, where there are others.
    """
    fitting = [pool for pool in cluster.pools if pool.holds(need.each)]
    if not need.each.get("GPU") and any(not pool.resources.get("GPU") for pool in fitting):
        fitting = [pool for pool in fitting if not pool.resources.get("GPU")]
    fitting.sort(key=lambda pool: (-pool.priority, pool.holds(need.each)))
    at_once = need.count if need.placement == "STRICT_PACK" else 1
    lies_on: list[_Node] = []
    for _ in range(need.count):
        node = _choose(need, fitting, nodes, lies_on, at_once)
        if node is None:
            raise UserError(_too_small(need, cluster))
        if not any(node is known for known in nodes):
            nodes.append(node)
        if not any(node is known for known in lies_on):
            lies_on.append(node)
        node.take(need.each)
        at_once = max(1, at_once - 1)
    return lies_on


def _choose(
    need: Need, fitting: Sequence[Pool], nodes: Sequence[_Node], lies_on: Sequence[_Node], at_once: int
) -> _Node | None:
    """Return the node of the next actor: one in use, or a new one where the placement or the room ask for it."""
    used = [node for pool in fitting for node in nodes if node.pool is pool and node.takes(need.each, at_once)]
    if need.placement == "STRICT_PACK" and lies_on:
        used = [node for node in used if node is lies_on[0]]
    fresh = None
    for pool in fitting:
        if sum(node.pool is pool for node in nodes) < pool.most and pool.holds(need.each) >= at_once:
            fresh = _Node(pool, dict(pool.resources))
            break
    if need.placement in ("SPREAD", "STRICT_SPREAD"):
        empty = [node for node in used if not any(node is known for known in lies_on)]
        if empty or fresh or need.placement == "STRICT_SPREAD":
            return empty[0] if empty else fresh
        return max(used, key=lambda node: min(node.free[name] for name in need.each), default=None)
    return used[0] if used else fresh


def _too_small(need: Need, cluster: ClusterFile) -> str:
    offers = ", ".join(f"{pool.most} x {pool.name} {shown(pool.resources)}" for pool in cluster.pools)
    wanted = f"{need.count} x {shown(need.each)} ({need.placement})"
    return f"{need.role} asks for {wanted}, and the cluster's file allows {offers}: ask for less, or raise max_workers"


def _by_pool(nodes: Sequence[_Node]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for node in nodes:
        counted[node.pool.name] = counted.get(node.pool.name, 0) + 1
    return counted


def shown(resources: Mapping[str, float]) -> str:
    """Return resources for people."""
    return "{" + ", ".join(f"{name}: {count:g}" for name, count in resources.items()) + "}"


def _launched(page: Mapping[str, Any]) -> ClusterFile:
    """Read the format of ``ray up``."""
    extra = page.get("metadata") or {}
    prices, notes = extra.get("prices") or {}, extra.get("nodes") or {}
    if page["provider"].get("type") == "local":
        pools = [
            Pool(name, "own host", node.get("resources", {}), node.get("count", 1), node.get("count", 1))
            for name, node in notes.items()
        ]
        head = next((pool for pool in pools if pool.name == "head"), Pool("head", "own host", {}, 1))
        pools = [pool for pool in pools if pool.resources]
    else:
        types = page.get("available_node_types") or {}
        pools = [_node_type(name, node, page) for name, node in types.items()]
        head = next(pool for pool in pools if pool.name == page["head_node_type"])
        pools = [pool for pool in pools if pool.name != head.name]
    hour = prices.get("per_hour", {})
    pools = [
        replace(pool, price=hour.get(pool.name), gpu_memory_gib=notes.get(pool.name, {}).get("gpu_memory_gib"))
        for pool in pools
    ]
    head = replace(head, price=hour.get(head.name))
    said = f"{prices.get('currency', 'USD')}, {prices['source']}, noted {prices['noted']}" if prices else ""
    return ClusterFile(page["provider"]["type"], head, tuple(pools), said)


def _node_type(name: str, node: Mapping[str, Any], page: Mapping[str, Any]) -> Pool:
    config = node.get("node_config") or {}
    spot = "InstanceMarketOptions" in config or bool((config.get("scheduling") or {}).get("preemptible"))
    return Pool(
        name,
        config.get("InstanceType") or config.get("machineType", ""),
        {name: count for name, count in (node.get("resources") or {}).items() if name not in (SPOT, ON_DEMAND)},
        min(node.get("max_workers", page.get("max_workers", 0)), page.get("max_workers", 0)),
        node.get("min_workers", 0),
        node.get("priority", 0),
        spot,
    )


def _kubernetes(page: Mapping[str, Any]) -> ClusterFile:
    """Read a KubeRay object; what a pod costs, its file does not know."""
    spec = page["spec"]
    cluster = spec.get("rayClusterSpec") or spec.get("rayClusterConfig") or spec
    pools = []
    for group in cluster.get("workerGroupSpecs", []):
        limits = group["template"]["spec"]["containers"][0].get("resources", {}).get("limits", {})
        resources = {"CPU": float(limits.get("cpu", 0)), "GPU": float(limits.get("nvidia.com/gpu", 0))}
        kept = {name: count for name, count in resources.items() if count}
        chosen = group["template"]["spec"].get("nodeSelector") or {}
        name, most, least = group["groupName"], group["maxReplicas"], group["minReplicas"]
        spot = "spot" in chosen.values()
        pools.append(Pool(name, "pod", kept, most, least, group.get("priority", 0), spot))
    return ClusterFile(page["kind"], Pool("head", "pod", {}, 1), tuple(pools), "")
