"""What the workers of a run do together; who keeps the others waiting is named."""

import datetime
from typing import Any

import torch


class Workers:
    """All workers of a run; every one of them makes this, and each call, in the same order."""

    def __init__(self, deadline_s: float) -> None:
        """Learn on which hosts the others are; ``deadline_s`` is how long each waits for the last."""
        import ray
        import torch.distributed as dist

        self.deadline_s, self.count = deadline_s, dist.get_world_size()
        self.group: Any = None
        if self.count == 1:
            return
        self.group = dist.new_group(backend="gloo")  # NCCL's cannot say who is late
        host = ray.util.get_node_ip_address()
        self.hosts: list[Any] = [None] * self.count
        dist.all_gather_object(self.hosts, host, group=self.group)

    def meet(self) -> None:
        """Wait until all workers are here.

        Raises:
            RuntimeError: some were not within the deadline; names them and all hosts.
        """
        import torch.distributed as dist

        if self.group is None:
            return
        try:
            dist.monitored_barrier(self.group, datetime.timedelta(seconds=self.deadline_s), wait_all_ranks=True)
        except RuntimeError as error:
            hosts = ", ".join(f"{rank} on {host}" for rank, host in enumerate(self.hosts))
            raise RuntimeError(
                f"not all workers were there within {self.deadline_s:.0f} s (four times rollout.deadline_s): "
                f"{error} (workers: {hosts})"
            ) from error

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of a small tensor over all workers.

        Raises:
            RuntimeError: as ``meet``.
        """
        import torch.distributed as dist

        self.meet()
        total = values.clone()
        dist.all_reduce(total)
        return total
