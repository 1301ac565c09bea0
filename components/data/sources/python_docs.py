"""The docstrings of the running Python's standard library: public modules, classes, functions and methods."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from components.config import Field, UserError
from components.data.records import Document
from components.data.sources import SourceConfig, Unreadable

_SCRIPT = Path(__file__).with_name("_docstrings.py")
_TIMEOUT_S = 120


class PythonDocs(SourceConfig):
    """Docstrings of the standard library."""

    name: Literal["python_docs"]
    modules: list[str] = Field([], description="top-level modules to read; none reads the whole library")
    python: str = Field(
        default_factory=platform.python_version, description="version of Python, which must be the running one"
    )


def python_docs(config: PythonDocs) -> list[dict[str, Any]]:
    """Return a part for each module that has docstrings, and one for each module that cannot be imported.

    The modules are imported in another process, which sees nothing of this one's environment.

    Raises:
        UserError: another version of Python is asked for, or a module that is not of the standard library.
    """
    if config.python != platform.python_version():
        raise UserError(f"source.python asks for {config.python}, but this is Python {platform.python_version()}")
    for name in config.modules:
        if name not in sys.stdlib_module_names:
            raise UserError(f"source.modules names '{name}', which is not a module of the standard library")
    records = _records(config.modules)
    found = sorted((record for record in records if "doc" in record), key=lambda record: record["module"])
    if not found:
        raise UserError(f"the modules {', '.join(config.modules)} have no docstrings: name others in source.modules")
    modules = groupby(found, lambda record: record["module"])
    parts: list[dict[str, Any]] = [{"doc_id": name, "holds": ".", "records": list(group)} for name, group in modules]
    return parts + [{"doc_id": r["symbol"], "holds": ".", "error": r["error"]} for r in records if "error" in r]


def read(part: dict[str, Any]) -> Iterator[Document]:
    """Yield a document for each docstring of a module: its name and signature, then what it says."""
    if "error" in part:
        raise Unreadable(part["error"])
    version = ".".join(platform.python_version_tuple()[:2])
    for record in part["records"]:
        yield Document(
            doc_id=record["symbol"],
            text=f"{record['symbol']}{record['signature']}\n\n{record['doc']}",
            source=f"python-{version}/{record['module']}",
            title=record["symbol"],
            group=record["module"],
            symbol=record["symbol"],
            metadata=json.dumps({"kind": record["kind"]}),
        )


def _records(modules: list[str]) -> list[dict[str, str]]:
    # A fixed hash seed keeps the order of sets in what is printed, and with it the passages, the same.
    environment = {"PATH": os.environ.get("PATH", ""), "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, "-s", "-P", "-W", "ignore", str(_SCRIPT), *modules],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_TIMEOUT_S,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"reading the docstrings failed ({done.returncode}): {done.stderr[-500:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]
