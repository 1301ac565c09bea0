"""Where gloo listens: on the interface with the host's address in Ray's cluster."""

import os
import socket

import pytest
import ray

from components.training.process_group import backend, listen_where_ray_does


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")  # so that it is restored afterwards
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    return lambda value: monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: value)


def test_the_interface_has_the_address_that_ray_knows_the_host_by(address) -> None:
    address("127.0.0.1")
    listen_where_ray_does()
    assert os.environ["GLOO_SOCKET_IFNAME"].startswith("lo")
    assert os.environ["GLOO_SOCKET_IFNAME"] in [name for _, name in socket.if_nameindex()]


def test_an_address_that_no_interface_has_changes_nothing(address) -> None:
    address("192.0.2.1")
    listen_where_ray_does()
    assert "GLOO_SOCKET_IFNAME" not in os.environ


def test_what_a_person_has_set_stays(address, monkeypatch: pytest.MonkeyPatch) -> None:
    address("127.0.0.1")
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    listen_where_ray_does()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ib0"


def test_workers_with_gpus_can_also_sum_what_is_on_the_cpu() -> None:
    """Torch's own parser says which device type has which backend."""
    from torch.distributed.distributed_c10d import BackendConfig

    assert BackendConfig(backend(gpu=True)).get_device_backend_map() == {"cpu": "gloo", "cuda": "nccl"}
    assert BackendConfig(backend(gpu=False)).get_device_backend_map()["cpu"] == "gloo"
