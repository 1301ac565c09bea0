"""Memory, space and package versions of this machine."""

import importlib.metadata

import numpy
import psutil
import pytest

from components.models.adapters import AdapterConfig
from components.training.deepspeed import DeepSpeedConfig
from components.training.doctor import machine
from components.training.doctor.findings import State
from components.training.settings import OptimConfig, Recipe, SaveConfig, ScaleConfig


def _recipe(**scale) -> Recipe:
    optim = OptimConfig(dtype="float32", micro_batch_size=1)
    return Recipe(AdapterConfig(name="none"), optim, DeepSpeedConfig(), ScaleConfig(**scale), SaveConfig(), 0)


def test_a_small_training_fits_and_a_huge_batch_does_not(tiny_model_dir):
    assert machine.memory(tiny_model_dir, _recipe(), 512).state is State.FINE
    found = machine.memory(tiny_model_dir, _recipe(), 10**9)
    assert found.state is State.PROBLEM and "lower optim.micro_batch_size" in found.text


def test_what_takes_nearly_all_that_is_free_is_worth_a_look(tiny_model_dir, monkeypatch):
    class Memory:
        available = int(1.7 * 2**30)  # a worker takes 1.5 GiB before any weight

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    assert machine.memory(tiny_model_dir, _recipe(), 8).state is State.LOOK
    assert machine.memory(tiny_model_dir, _recipe(workers=2), 8).state is State.PROBLEM


def test_a_gpu_that_is_not_here_is_not_made_up(tiny_model_dir):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    found = machine.memory(tiny_model_dir, _recipe(gpu=True), 512)
    assert found.state is State.LOOK and "this machine has none" in found.text


def test_checkpoints_that_do_not_fit_on_the_disk_are_a_problem(tiny_model_dir, tmp_path, monkeypatch):
    assert machine.space(tmp_path, tiny_model_dir, _recipe(), 512).state is State.FINE

    class Usage:
        free = 1000

    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: Usage)
    assert machine.space(tmp_path, tiny_model_dir, _recipe(), 512).state is State.PROBLEM


def test_versions_are_those_that_the_project_asks_for(monkeypatch):
    assert machine.versions().state is State.FINE
    needs = ["numpy>=9999", "no-such-package-anywhere", "pytest", "nothing-either; extra == 'gpu'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needs)
    found = machine.versions()
    assert found.state is State.PROBLEM
    assert f"numpy is {numpy.__version__}, wanted is >=9999; no-such-package-anywhere is missing:" in found.text


def test_a_checkout_that_is_not_installed_says_so():
    found = machine.versions("no-such-package-anywhere")
    assert found.state is State.LOOK and "is not installed here" in found.text
