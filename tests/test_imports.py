"""Who may import whom, and which files are the door to each heavy library."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ALLOWED = {
    "config": set(),
    "config_help": {"config"},
    "progress": set(),
    "spans": set(),
    "storage": set(),
    "data": set(),
    "models": set(),
    "tracking": set(),
    "reasoning": set(),
    "quantization": {"models"},
    "retrieval": {"data", "models"},
    "training": {"data", "models", "tracking"},
    "serving": {"data", "models", "retrieval", "reasoning", "tracking"},
    "orchestration": {"tracking", "config_help"},
    "benchmarks": {"data", "models", "tracking", "training", "retrieval"},
}
EVERYONE = {"config", "progress", "spans", "storage"}
DOORS = {
    "lancedb": {"components/data/store.py", "components/data/search.py"},  # tables, and what is found in them
    "mlflow": {f"components/tracking/{name}.py" for name in ("run", "history", "registry", "traces")},
    "deepspeed": {"components/training/deepspeed.py"},
    "vllm": {"components/models/rollout_engine.py"},
}
HEAVY = {"torch", "ray", "transformers", "trl", "peft", "datasets", "pyarrow", "numpy", "pandas", *DOORS}


def _sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def _imports(path: Path) -> Iterator[str]:
    """Yield the modules that a file imports anywhere; what is for the type checker only is left out."""
    tree = ast.parse(path.read_text())
    checked = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and "TYPE_CHECKING" in ast.unparse(branch.test)
        for node in ast.walk(branch)
    }
    for node in ast.walk(tree):
        if id(node) in checked:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("path", _sources("components"), ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_import_only_what_the_plan_allows(path: Path) -> None:
    parts = path.relative_to(ROOT / "components").parts
    if parts == ("__init__.py",):
        return
    room = parts[0].removesuffix(".py")
    for module in _imports(path):
        assert not module.startswith("workflows"), f"{path} imports {module}: nothing imports workflows"
        if module.startswith("components."):
            target = module.split(".")[1]
            assert target in ALLOWED[room] | EVERYONE | {room}, f"{room} must not import {target} ({path})"


@pytest.mark.parametrize("library", DOORS)
def test_a_heavy_library_has_one_door(library: str) -> None:
    users = {
        str(path.relative_to(ROOT))
        for path in [*_sources("components"), *_sources("workflows")]
        if not path.name.startswith("peer_")  # a script of a benchmark's other side, which is no part of us
        for module in _imports(path)
        if module.split(".")[0] == library
    }
    assert users <= DOORS[library]


@pytest.mark.parametrize("workflow", sorted(path.stem for path in _sources("workflows") if path.stem != "__init__"))
def test_importing_a_workflow_imports_no_heavy_library(workflow: str) -> None:
    program = f"import sys, workflows.{workflow}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [], "import inside the function that needs it: --help must stay fast"
