"""A workflow in a process forked from one that has done the slow imports, which saves 12 s of CPU a run.

Neither Ray nor LanceDB may be forked: the process that is forked imports neither, each run imports its own.
"""

import io
import json
import multiprocessing
import os
import runpy
import sys
import tempfile
from pathlib import Path

from tests.workflows.toy import clusterless

ROOT = Path(__file__).resolve().parents[2]
_IMPORTS = [
    *("mlflow", "mlflow.store.tracking.sqlalchemy_store", "pandas", "pyarrow", "torch", "sentence_transformers"),
    *("transformers.models.auto.modeling_auto", "transformers.models.llama.modeling_llama", "peft"),
]
_FORKS = multiprocessing.get_context("forkserver")


def ask(workflow: str, *arguments: str, cluster: str | None = None, timeout_s: float = 280) -> tuple[int, dict, str]:
    """Return exit code, JSON line and log of ``python -m workflows.<workflow> arguments``.

    Args:
        cluster: address of the Ray cluster that it joins, as a submitted job does; none: it starts one if it needs one.
    """
    _FORKS.set_forkserver_preload(_IMPORTS)  # heeded by the first call alone, which starts the server
    environment = dict(os.environ) | {"RAY_ADDRESS": cluster} if cluster else clusterless()
    with tempfile.TemporaryDirectory() as folder:
        said, logged = Path(folder) / "stdout", Path(folder) / "stderr"
        said.touch()
        logged.touch()
        process = _FORKS.Process(target=_run, args=(workflow, arguments, environment, said, logged))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{workflow} {arguments} ran for more than {timeout_s} s: {logged.read_text()[-2000:]}")
        lines = said.read_text().splitlines()
        assert lines, f"{workflow} {arguments} ended with {process.exitcode}: {logged.read_text()[-2000:]}"
        return process.exitcode, json.loads(lines[-1]), logged.read_text()


def _run(workflow: str, arguments: tuple[str, ...], environment: dict[str, str], said: Path, logged: Path) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, path in ((1, said), (2, logged)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (io.TextIOWrapper(os.fdopen(number, "wb"), write_through=True) for number in (1, 2))
    sys.argv = [workflow, *arguments]
    runpy.run_module(f"workflows.{workflow}", run_name="__main__", alter_sys=True)
