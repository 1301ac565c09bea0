"""Every cluster file is what Ray accepts, names only what exists, and has nobody's account in it."""

import copy
import importlib
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.config import CPU_ENV, load
from components.orchestration.nodes import ON_DEMAND, SPOT
from components.orchestration.pools import read_cluster
from workflows.pipeline import schema_of

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "clusters"
FILES = sorted(path for path in CLUSTERS.rglob("*") if path.is_file())
LAUNCHED = [CLUSTERS / name for name in ("local.yaml", "aws.yaml", "gcp.yaml")]
CLOUDS = LAUNCHED[1:]
_COMMAND = re.compile(r"python -m workflows\.(\w+)((?: +[^\s`#]+)*)")


def _name(path: Path) -> str:
    return str(path.relative_to(CLUSTERS))


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def _commands(text: str) -> list[tuple[str, list[str]]]:
    """Every `python -m workflows.…` of a file, comments and continued lines included, as (workflow, words)."""
    joined = re.sub(r"\\\n#? *", " ", text)
    return [(found[1], found[2].split()) for found in _COMMAND.finditer(joined)]


@pytest.mark.parametrize("path", LAUNCHED, ids=_name)
def test_ray_accepts_the_file(path: Path) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(_read(path))
    validate_config(config)
    wrong = copy.deepcopy(config)
    wrong["max_worker"] = 3
    with pytest.raises(Exception, match="max_worker"):
        validate_config(wrong)


@pytest.mark.parametrize("path", CLOUDS, ids=_name)
def test_pools_start_empty_and_spot_falls_back_to_the_same_machine_on_demand(path: Path) -> None:
    config = _read(path)
    types = config["available_node_types"]
    assert types[config["head_node_type"]]["resources"] == {"CPU": 0}, "the head does no work of its own"
    pools = {name: pool for name, pool in types.items() if name != config["head_node_type"]}
    assert all(pool["min_workers"] == 0 for pool in pools.values())
    spot, demand = pools["gpu-spot"], pools["gpu"]
    assert spot["resources"].pop(SPOT) == demand["resources"].pop(ON_DEMAND) == spot["resources"]["GPU"] > 0
    assert spot["resources"] == demand["resources"]
    planned = {pool.name: pool.resources for pool in read_cluster(str(path)).pools}
    assert planned["gpu-spot"] == planned["gpu"] == spot["resources"], "nobody needs what tells them apart"
    assert spot["priority"] > demand["priority"]
    machine = {"aws": "InstanceType", "gcp": "machineType"}[config["provider"]["type"]]
    assert spot["node_config"][machine] == demand["node_config"][machine]
    assert spot["node_config"] != demand["node_config"]
    assert "GPU" not in pools["data"]["resources"]


def test_disks_of_google_are_in_the_zone_of_their_nodes() -> None:
    config = _read(CLUSTERS / "gcp.yaml")
    for node in config["available_node_types"].values():
        (disk,) = node["node_config"]["disks"]
        zone = config["provider"]["availability_zone"]
        assert disk["initializeParams"]["diskType"] == f"zones/{zone}/diskTypes/pd-balanced"


@pytest.mark.parametrize("path", LAUNCHED, ids=_name)
def test_what_is_copied_to_the_hosts_exists_and_holds_what_setup_needs(path: Path) -> None:
    config = _read(path)
    mounts = {there: here for there, here in config["file_mounts"].items() if here.startswith("./")}
    for here in mounts.values():
        assert (ROOT / here).exists()
    there = {name.removeprefix("~/raylign/") for name in mounts}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]}
    assert {"pyproject.toml", "Makefile", project["project"]["readme"], *packages} <= there
    setup = "\n".join(config["setup_commands"])
    assert re.search(r"^setup:", (ROOT / "Makefile").read_text(), re.M) and "make setup HARDWARE=gpu\n" in setup
    assert "nvidia-smi" not in setup, "drivers decide by the build of the head, which must be that of all"
    assert any("--autoscaling-config=~/ray_bootstrap_config.yaml" in line for line in config["head_start_ray_commands"])
    for commands in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert "RAY_AUTH_MODE=token" in config[commands][-1]
    assert "~/.ray/auth_token" in config["file_mounts"]


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_no_account_is_in_a_file(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"\b\d{12}\b|arn:aws|AKIA|[\w.]+@[\w-]+\.\w|BEGIN [A-Z ]*PRIVATE KEY", text)
    addresses = set(re.findall(r"\b\d{1,3}(?:\.\d{1,3}){3}\b", text))
    assert all(found.startswith(("192.0.2.", "127.0.0.1", "0.0.0.0")) for found in addresses)
    assert not re.search(r"project_id: (?!null)\S", text)


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_a_file_begins_by_saying_what_it_is(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# ") and lines[0].rstrip()
    assert sum("#" in line for line in lines) >= 3


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_every_command_names_a_workflow_a_config_and_keys_that_exist(path: Path) -> None:
    commands = _commands(path.read_text())
    if path.suffix == ".yaml" and path.name != "laptop.yaml" and path.name != "rayservice.yaml":
        assert commands, "each says how a job gets there"
    for workflow, words in commands:
        words = [word for word in words if word not in ("…", "--plan", "--cluster")]
        words = [word for word in words if not word.startswith("clusters/")]
        schema = schema_of(workflow)
        files = [word for word in words if "=" not in word]
        assert all((ROOT / file).is_file() for file in files), words
        if files:
            load(schema, str(ROOT / files[0]), [word for word in words if "=" in word])


def test_the_check_of_commands_finds_what_is_wrong() -> None:
    text = "#   python -m workflows.train_dpo a.yaml \\\n#     ray.wait_for.GPU=2 storage=s3://<bucket>/x\n"
    assert _commands(text) == [("train_dpo", ["a.yaml", "ray.wait_for.GPU=2", "storage=s3://<bucket>/x"])]


def test_the_runtime_environment_is_one_that_ray_takes() -> None:
    from ray.runtime_env import RuntimeEnv

    found = _read(CLUSTERS / "runtime_env.yaml")
    assert {name: found["env_vars"][name] for name in CPU_ENV} == CPU_ENV
    unknown = set(found) - RuntimeEnv.known_fields
    assert not unknown
    assert found["working_dir"] == "."


def test_versions_are_those_of_the_project() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    ray = next(line.partition("==")[2] for line in wanted if line.startswith("ray["))
    torch = next(line for line in wanted if line.startswith("torch=="))
    image = (CLUSTERS / "kuberay" / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{ray}-py312-${{HARDWARE}}\n" in image and torch in image
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    built = set(re.findall(r"HARDWARE=(\w+)", image))
    (more,) = re.findall(r"\.\[\$\{HARDWARE\},([\w,]+)\]", image)
    assert built == {"gpu", "cpu"} and built | set(more.split(",")) <= set(extras)
    for path in (CLUSTERS / "kuberay").glob("*.yaml"):
        assert set(re.findall(r'rayVersion: "([\d.]+)"', path.read_text())) == {ray}


def test_import_path_is_a_function_that_serve_can_call() -> None:
    text = (CLUSTERS / "kuberay" / "rayservice.yaml").read_text()
    module, _, name = re.search(r"import_path: (\S+)", text)[1].partition(":")
    assert callable(getattr(importlib.import_module(module), name))
