"""What a cluster's nodes must have before work starts: resources that a pool brings, and one storage for all."""

import logging
import math
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from components import storage as place
from components.config import UserError

# Resources by which the same machines at spot prices and on demand can be asked for; each pool has one for each GPU.
SPOT, ON_DEMAND = "spot", "on_demand"
_POLL_S, _PROBE_TIMEOUT_S = 2.0, 120.0
logger = logging.getLogger(__name__)


def await_resources(wanted: Mapping[str, float], timeout_s: float) -> None:
    """Ask the connected cluster for resources and wait until its nodes have them; at most ``timeout_s``.

    The request is a placement group in which nothing ever runs. Those of all jobs add up, and one goes with its job;
    of the autoscaler's ``request_resources`` a cluster has one, and each job's would take back that of another. It is
    withdrawn in the end: a pool shrinks again when nothing has used its nodes for as long as its own file says.

    Where nothing has come for half of the time, the pools on demand are asked for the GPUs that are missing. Ray does
    so by itself only if a node was granted and never came up, not if the cloud refuses to grant one. The first request
    stays beside it: pools that know nothing of ``ON_DEMAND`` are asked for the whole time.

    Raises:
        UserError: the cluster has not come to have them.
    """
    if not wanted:
        return
    import ray
    from ray.util import placement_group, remove_placement_group

    started = latest = time.monotonic()
    most = 0.0
    asked: list[Any] = []
    try:
        while missing := lacking(wanted, present := ray.cluster_resources()):
            now = time.monotonic()
            if now - started >= timeout_s:
                raise UserError(
                    f"the cluster has {missing} after {timeout_s:.0f} s: lower ray.wait_for, raise ray.wait_s, or let "
                    "its pools grow larger (max_workers in its file)"
                )
            there = sum(min(present.get(name, 0.0), count) for name, count in wanted.items())
            if there > most:
                most, latest = there, now
            if not asked:
                logger.info("waiting up to %.0f s for the cluster, which has %s", timeout_s, missing)
                asked.append(placement_group(as_bundles(wanted), strategy="PACK"))
            elif len(asked) == 1 and now - latest >= timeout_s / 2 and (more := on_demand_bundles(wanted, present)):
                logger.info("no node came in %.0f s: asking the pools on demand, too", now - latest)
                asked.append(placement_group(more, strategy="PACK"))
            time.sleep(_POLL_S)
    finally:
        for group in asked:
            remove_placement_group(group)


def lacking(wanted: Mapping[str, float], present: Mapping[str, float]) -> str:
    """Return for people what is missing, as ``0 of 8 GPU``; nothing where all is there."""
    short = {name: count for name, count in wanted.items() if present.get(name, 0.0) < count}
    return ", ".join(f"{present.get(name, 0.0):g} of {count:g} {name}" for name, count in short.items())


def as_bundles(wanted: Mapping[str, float]) -> list[dict[str, float]]:
    """Return single units, which the autoscaler may spread over as many nodes as it takes."""
    return [{name: 1.0} for name, count in wanted.items() for _ in range(math.ceil(count))]


def on_demand_bundles(wanted: Mapping[str, float], present: Mapping[str, float]) -> list[dict[str, float]]:
    """Return single units of the GPUs that are missing, which fit on a node of a pool on demand only."""
    missing = math.ceil(wanted.get("GPU", 0.0) - present.get("GPU", 0.0))
    return [{"GPU": 1.0, ON_DEMAND: 1.0} for _ in range(missing)]


def check_scratch(storage: str, wanted: Mapping[str, float], present: Mapping[str, float]) -> None:
    """Refuse, before a cluster is asked for nodes, a storage that they could not work on; ``check_shared`` needs them.

    Raises:
        UserError: it is in an object store, nodes are still to come, and no scratch folder that they share is named.
    """
    if place.is_remote(storage) and lacking(wanted, present) and not os.environ.get(place.SCRATCH_VARIABLE):
        raise UserError(
            f"storage={storage} needs a folder that all hosts of the cluster share, and more are to come: mount "
            f"one on every host under the same path and set {place.SCRATCH_VARIABLE} to it in the job's runtime_env"
        )


def check_shared(storage: str) -> None:
    """Refuse a storage whose folder some node of the connected cluster does not see, by reading there from each.

    That of an object store is its scratch folder: actors on any host read models from there. A node that is lost
    meanwhile is no longer one of the cluster.

    Raises:
        UserError: naming the hosts.
    """
    import ray

    others = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}
    others.pop(ray.get_runtime_context().get_node_id(), None)
    if not others:
        return
    mark = place.folder(storage) / f".shared-{uuid.uuid4().hex}"
    token = uuid.uuid4().hex
    mark.write_text(token)
    try:
        seen = _look(others, str(mark))
    finally:
        mark.unlink(missing_ok=True)
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    silent = sorted(others[node] for node, found in seen.items() if found is None and node in alive)
    blind = sorted(others[node] for node, found in seen.items() if found not in (None, token))
    if silent:
        raise UserError(
            f"{', '.join(silent)} did not answer within {_PROBE_TIMEOUT_S:.0f} s when asked to read in {mark.parent}: "
            "see whether the host is up and what is mounted there answers, or take it out of the cluster"
        )
    if blind and place.is_remote(storage):
        raise UserError(
            f"{', '.join(blind)} cannot read in {mark.parent}, where this host works on {storage}: mount one "
            f"folder on every host under the same path and set {place.SCRATCH_VARIABLE} to it in the job's runtime_env"
        )
    if blind:
        raise UserError(
            f"storage={storage} is not shared: {', '.join(blind)} cannot read there what this host writes; "
            "give a folder that every host mounts under the same path, or an object store (s3://…, gs://…)"
        )


def _look(nodes: Iterable[str], path: str) -> dict[str, str | None]:
    """Return what ``path`` holds as seen from each node: empty where it cannot be read, none if the node is silent."""
    import ray
    from ray.exceptions import RayError, RayTaskError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    there: Any = ray.remote(num_cpus=0, max_retries=0)(read_text)
    asked = {
        node: there.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(path)
        for node in nodes
    }
    answered, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=_PROBE_TIMEOUT_S)
    seen: dict[str, str | None] = dict.fromkeys(asked)
    for node, answer in asked.items():
        try:
            seen[node] = ray.get(answer) if answer in answered else None
        except RayTaskError:  # it may not read there
            seen[node] = ""
        except RayError:  # the node or its worker has died
            seen[node] = None
    return seen


def read_text(path: str) -> str:
    """Return a file's text; runs on the node that is asked."""
    return Path(path).read_text() if Path(path).is_file() else ""
