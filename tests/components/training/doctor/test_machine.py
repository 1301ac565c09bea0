"""Memory, space and package versions of this machine."""

import importlib.metadata

import numpy
import psutil

from components.config import RayConfig
from components.models.adapters import AdapterConfig
from components.models.engine import EngineConfig
from components.training.deepspeed import DeepSpeedConfig
from components.training.doctor import machine
from components.training.doctor.findings import State
from components.training.ppo.estimate import PpoMemory
from components.training.ppo.settings import RolloutConfig
from components.training.settings import OptimConfig, Recipe, SaveConfig, ScaleConfig


def _recipe(dtype="float32", adapter="none", **scale) -> Recipe:
    optim = OptimConfig(dtype=dtype, micro_batch_size=1)
    return Recipe(AdapterConfig(name=adapter), optim, DeepSpeedConfig(), ScaleConfig(**scale), SaveConfig(), 0)


def _free(monkeypatch, gib: float) -> None:
    class Memory:
        available = int(gib * 2**30)

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def test_weights_that_do_not_fit_are_a_problem_and_activations_worth_a_look(tiny_model_dir, monkeypatch):
    _free(monkeypatch, 16)
    assert machine.memory(tiny_model_dir, _recipe(), 512, RayConfig()).state is State.FINE
    found = machine.memory(tiny_model_dir, _recipe(), 10**8, RayConfig())  # checkpointing may make room for them
    assert found.state is State.LOOK and "optim.gradient_checkpointing" in found.text
    _free(monkeypatch, 1.7)  # a worker takes 1.5 GiB before any weight
    assert machine.memory(tiny_model_dir, _recipe(), 8, RayConfig()).state is State.LOOK
    assert machine.memory(tiny_model_dir, _recipe(workers=2), 8, RayConfig()).state is State.PROBLEM


def test_auto_is_counted_as_the_format_that_this_cpu_trains_in(tiny_model_dir, monkeypatch):
    from components.models.load import cpu_dtype

    _free(monkeypatch, 16)
    own = str(cpu_dtype()).removeprefix("torch.")
    auto, fixed = (machine.memory(tiny_model_dir, _recipe(dtype), 10**7, RayConfig()) for dtype in ("auto", own))
    assert auto == fixed


def test_a_clusters_hosts_are_not_this_one(tiny_model_dir, monkeypatch):
    _free(monkeypatch, 0.1)
    found = machine.memory(tiny_model_dir, _recipe(workers=8), 512, RayConfig(address="somewhere:6379"))
    assert found.state is State.LOOK and "were not asked" in found.text
    monkeypatch.setenv("RAY_ADDRESS", "somewhere:6379")
    assert machine.memory(tiny_model_dir, _recipe(workers=8), 512, RayConfig()) == found


def test_a_gpu_that_is_not_here_is_not_made_up(tiny_model_dir, monkeypatch):
    import torch

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = machine.memory(tiny_model_dir, _recipe(gpu=True), 512, RayConfig())
    assert found.state is State.LOOK and "this machine has none" in found.text


def test_checkpoints_that_do_not_fit_on_the_disk_are_a_problem(tiny_model_dir, tmp_path, monkeypatch):
    assert machine.space(tmp_path, tiny_model_dir, _recipe()).state is State.FINE
    trained = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 128 * 3 + 2 * 64) + 64 + 384 * 64  # all weights

    class Usage:
        free = trained * (2 * 16 + 4) - 1

    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Usage)
    assert machine.space(tmp_path, tiny_model_dir, _recipe()).state is State.PROBLEM
    assert machine.space(tmp_path, tiny_model_dir, _recipe(adapter="lora")).state is State.FINE  # an adapter is small


def test_ppos_engines_take_memory_beside_its_workers(monkeypatch):
    """A worker of 1 to 2 GiB and 1.5 of its own, two engines of 3 GiB: at least 8.5 GiB, at most 2 x 1.5 + 1 more."""
    planned = PpoMemory(trained=0, least=2**30, most=2 * 2**30, engine=3 * 2**30)
    rollout = RolloutConfig(engine=EngineConfig(engines=2))
    for free, state in ((16, State.FINE), (13, State.LOOK), (8.4, State.PROBLEM)):
        _free(monkeypatch, free)
        found = machine.ppo_memory(planned, ScaleConfig(), rollout, RayConfig())
        assert found.state is state and "1 worker(s) and 2 engine(s): 8.5 to 12.5 GiB" in found.text


def test_an_engine_on_a_workers_gpu_leaves_a_part_of_it(monkeypatch):
    planned = PpoMemory(trained=0, least=2**30, most=2**30, engine=0)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(machine, "_gpu_free", lambda: 10 * 2**30)
    found = machine.ppo_memory(planned, ScaleConfig(gpu=True), RolloutConfig(share_gpus=True), RayConfig())
    assert found.state is State.FINE and "1.0 to 1.0 GiB of 6.0 GiB free" in found.text


def test_versions_are_those_that_the_project_asks_for(monkeypatch):
    assert machine.versions().state is State.FINE
    needs = ["numpy>=9999", "no-such-package-anywhere", "pytest", "nothing-either; extra == 'gpu'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)
    found = machine.versions()
    assert found.state is State.PROBLEM and "nothing-either" not in found.text
    assert f"numpy is {numpy.__version__}, wanted is >=9999; no-such-package-anywhere is missing:" in found.text


def test_a_checkout_that_is_not_installed_says_so():
    found = machine.versions("no-such-package-anywhere")
    assert found.state is State.LOOK and "is not installed here" in found.text
