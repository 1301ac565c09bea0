"""Script run by python_docs in a bare interpreter: imports the standard library, prints one JSON line a docstring.

Only the standard library is imported here. What the imported modules print goes nowhere.
"""

import contextlib
import enum
import importlib
import inspect
import io
import json
import pkgutil
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

# Importing these prints, opens a browser or a window, or patches other modules; or they are tests,
# demos, or another platform's or a module's inner parts that are public under a better name.
SKIPPED = frozenset(
    {"antigravity", "this", "idlelib", "tkinter", "turtle", "turtledemo", "test", "lib2to3", "distutils", "ensurepip"}
    | {"genericpath", "ntpath", "posixpath", "posix", "nt", "nturl2path", "pydoc_data", "encodings"}
    | {"sre_compile", "sre_constants", "sre_parse", "rlcompleter", "venv"}
)
SKIPPED_SUBMODULES = frozenset({"__main__", "test", "tests", "macholib"})
MIN_WORDS = 4
_ADDRESS = re.compile(r"<([\w.]+)[^<>]* at 0x[0-9a-fA-F]+>")


def main(roots: list[str]) -> None:
    """Print the docstrings of these modules and their submodules, of the whole library if none is named."""
    tops = sorted(roots or [name for name in sys.stdlib_module_names if not name.startswith("_")])
    modules, problems = _import_all([name for name in tops if name.partition(".")[0] not in SKIPPED])
    if "os" in modules:
        modules["os.path"] = modules["os"].path
    seen: set[str] = set()
    out = sys.stdout
    # Short module names first: an object is listed under the shortest name that it is public by.
    for name in sorted(modules, key=lambda name: (name != "builtins", name.count(".") - (name == "os.path"), name)):
        for record in _records(name, modules[name]):
            key = " ".join(record["doc"].split())
            if key not in seen:
                seen.add(key)
                out.write(json.dumps(record) + "\n")
    for name, reason in sorted(problems.items()):
        out.write(json.dumps({"symbol": name, "error": reason}) + "\n")
    out.flush()


def _import_all(tops: list[str]) -> tuple[dict[str, ModuleType], dict[str, str]]:
    modules, problems, waiting = {}, {}, list(tops)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        while waiting:
            name = waiting.pop()
            try:
                module = modules[name] = importlib.import_module(name)
            except BaseException as error:  # a module may call sys.exit while it is imported
                problems[name] = f"{type(error).__name__}: {error}"
                continue
            for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
                if not found.name.startswith("_") and found.name not in SKIPPED_SUBMODULES:
                    waiting.append(f"{name}.{found.name}")
    return modules, problems


def _records(name: str, module: ModuleType) -> Iterator[dict[str, str]]:
    yield from _record(module, name, name, "module", "")
    for attribute in _public_names(module):
        thing = getattr(module, attribute, None)
        symbol = attribute if name == "builtins" else f"{name}.{attribute}"
        if inspect.isclass(thing):
            yield from _record(thing, name, symbol, "class", _signature(thing))
            for method_name, method in vars(thing).items():
                if not method_name.startswith("_"):
                    yield from _method(thing, method_name, method, name, symbol)
        elif inspect.isroutine(thing):
            yield from _record(thing, name, symbol, "function", _signature(thing))


def _method(owner: type, name: str, method: Any, module: str, symbol: str) -> Iterator[dict[str, str]]:
    method = method.__func__ if isinstance(method, (classmethod, staticmethod)) else method
    if inspect.isroutine(method):
        yield from _record(method, module, f"{symbol}.{name}", "method", _signature(method))


def _record(thing: Any, module: str, symbol: str, kind: str, signature: str) -> Iterator[dict[str, str]]:
    doc = inspect.cleandoc(thing.__doc__) if isinstance(thing.__doc__, str) else ""
    written, doc = _written_signature(doc, symbol)
    signature = signature or written
    if len(doc.split()) >= MIN_WORDS and not _is_only_a_signature(doc, symbol):
        yield {"symbol": symbol, "module": module, "kind": kind, "signature": signature, "doc": doc}


def _written_signature(doc: str, symbol: str) -> tuple[str, str]:
    """Split a docstring that opens with ``name(…)`` or ``name(…) -> result`` on a line of its own."""
    line, _, rest = doc.partition("\n")
    found = re.fullmatch(rf"{re.escape(symbol.rpartition('.')[2])}(\(.*\)(?: --?> [\w ]+)?)", line.strip())
    return (found[1], rest.strip("\n")) if found and rest.strip() else ("", doc)


def _is_only_a_signature(doc: str, symbol: str) -> bool:
    """Return whether a docstring says no more than ``name(...)``, as dataclasses and ast nodes write it."""
    name = symbol.rpartition(".")[2]
    return doc.startswith(f"{name}(") and doc.endswith(")") and "\n\n" not in doc and ". " not in doc


def _public_names(module: ModuleType) -> list[str]:
    listed = getattr(module, "__all__", None)
    if listed is not None:
        return list(listed)
    own = {module.__name__, "_" + module.__name__}
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_") and getattr(thing, "__module__", None) in own
    ]


def _signature(thing: Any) -> str:
    """Return ``(a, b=1)``; a default that is no plain value shows as ``...``.

    Some modules keep the environment, the interpreter's path or an object's address in a default:
    these differ between processes, and the environment is nobody's business.
    """
    try:
        signature = inspect.signature(thing)
        parameters = [
            parameter if parameter.default is parameter.empty else parameter.replace(default=_plain(parameter.default))
            for parameter in signature.parameters.values()
        ]
        return _ADDRESS.sub(r"<\1>", str(signature.replace(parameters=parameters)))
    except Exception:  # inspect evaluates what C code wrote, which need not exist here
        return ""


class _Shown:
    """Stands for a default value in a signature."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _plain(default: Any) -> Any:
    if default is None or type(default) in (bool, int, float, complex, bytes):
        return default
    if isinstance(default, str):
        return _Shown("...") if len(default) > 1 and default.startswith("/") else default
    if isinstance(default, enum.Enum):
        return _Shown(f"{type(default).__name__}.{default.name}")
    if isinstance(default, type) or inspect.isroutine(default):
        return _Shown(default.__name__)
    if isinstance(default, (tuple, list, dict)) and not default:
        return default
    return _Shown("...")


if __name__ == "__main__":
    main(sys.argv[1:])
