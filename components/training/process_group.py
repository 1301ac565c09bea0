"""Torch's process group over the network that Ray uses.

Gloo listens where the host's own name leads to, and on many hosts that is 127.0.1.1: workers on one host find each
other there, workers on two wait in vain. NCCL looks for an interface itself.
"""

import os
from typing import Any

import psutil
import ray
from ray.train.torch import TorchConfig

_TORCH: Any = TorchConfig().backend_cls


class ProcessGroup(TorchConfig):
    """What Ray Train sets torch.distributed up by."""

    @property
    def backend_cls(self) -> type:
        """Return what is run before the workers meet."""
        return _Backend


def backend(gpu: bool) -> str:
    """Return what carries tensors between workers: NCCL only those on GPUs, and figures are summed on the CPU, too."""
    return "cpu:gloo,cuda:nccl" if gpu else "gloo"


class _Backend(_TORCH):
    def on_start(self, worker_group: Any, backend_config: ProcessGroup) -> None:
        worker_group.execute(listen_where_ray_does)
        super().on_start(worker_group, backend_config)


def listen_where_ray_does() -> None:
    """Tell gloo the interface with this host's address in the cluster, unless GLOO_SOCKET_IFNAME names one already.

    Where no interface has that address (behind a translation of addresses, say), gloo is left to itself.
    """
    address = ray.util.get_node_ip_address()
    for name, own in psutil.net_if_addrs().items():
        if any(each.address == address for each in own):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
