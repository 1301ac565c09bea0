"""What ``python -m workflows.<name>`` does: arguments, help, plan, the ledger, exit codes, the JSON line."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from components.config import UserError, WorkflowConfig, describe, load, to_yaml

if TYPE_CHECKING:
    from components.tracking.run import Result, Run

ConfigT = TypeVar("ConfigT", bound=WorkflowConfig)
DONE, FAILED, INVALID = 0, 1, 2
_LOCK_TIMEOUT_S, _LOCK_POLL_S = 60.0, 3.0
logger = logging.getLogger(__name__)


def entry(
    schema: type[ConfigT],
    main: "Callable[[ConfigT, Run], Result]",
    identity: Callable[[ConfigT], str] | None = None,
    leading: str | None = None,
) -> NoReturn:
    """Run a workflow from the command line and exit: 0 done, 1 failed, 2 the user's input was wrong.

    Usage: ``[CONFIG.yaml] [key=value …] [--help] [--plan] [--force]``. The last line on stdout is one
    JSON object; everything else goes to stderr.

    Args:
        identity: for a workflow that always runs and goes on with one MLflow run: the name of that run.
        leading: key that a bare first word sets, as in ``python -m workflows.benchmark ppo``.
    """
    module = sys.modules[main.__module__]
    workflow = Path(str(module.__file__)).stem
    arguments = sys.argv[1:]
    _log_to_stderr()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops in order, as Ctrl-C does
    try:
        if "--help" in arguments or "-h" in arguments:
            print(_help(workflow, str(module.__doc__), schema, leading))
            sys.exit(DONE)
        flags, yaml_path, overrides = _split(arguments, leading)
        config = absolute(load(schema, yaml_path, overrides))
        if "--plan" in flags:
            print(_plan(workflow, config, getattr(module, "plan", None)))
            sys.exit(DONE)
        name = identity(config) if identity else None
        line = execute(workflow, config, main, force="--force" in flags, name=name)
        code = DONE
    except UserError as error:
        print(f"{workflow}: {error}", file=sys.stderr)
        line, code = _line(workflow, None, "invalid", {"error": str(error)}), INVALID
    except KeyboardInterrupt:
        line, code = _line(workflow, None, "stopped", {}), 130
    except Exception as error:
        traceback.print_exc()
        line, code = _line(workflow, None, "failed", {"error": f"{type(error).__name__}: {error}"}), FAILED
    sys.stderr.flush()
    print(json.dumps(line), flush=True)
    sys.exit(code)


def execute(
    workflow: str,
    config: ConfigT,
    main: "Callable[[ConfigT, Run], Result]",
    *,
    force: bool = False,
    name: str | None = None,
) -> dict[str, Any]:
    """Run ``main`` under its MLflow run unless the ledger has its step key as done; return the JSON line.

    With a ``name`` it runs always, and goes on with the run of that name.
    """
    from components.orchestration.ledger import step_key
    from components.tracking.environment import commit, package_versions
    from components.tracking.run import find_result, finish_run, log_params, open_run

    storage = Path(config.storage)
    storage.mkdir(parents=True, exist_ok=True)
    config = _with_registered_models(config, storage)
    key = hashlib.sha256(f"{workflow} {name}".encode()).hexdigest() if name else step_key(workflow, config)
    started = time.monotonic()
    with _only_one(storage, workflow, key):
        done = None if force or name else find_result(storage, config.experiment, workflow, key)
        if done is not None:
            logger.info("%s is done already: run %s (--force repeats it)", workflow, done.run_id)
            return _line(workflow, done.run_id, "done", done.result.outputs, done.result.metrics)
        facts = {"raylign.commit": commit()}
        with open_run(storage, config.experiment, workflow, key, facts, name=name, reopen=bool(name)) as run:
            run.log_text(to_yaml(config), "config.yaml")
            run.log_text(json.dumps(package_versions(), indent=2), "packages.json")
            if not name:  # the one run of a name has many configurations, its steps' runs have one each
                log_params(run, _leaves(config.model_dump(mode="json")))
            result = main(config, run)
            finish_run(run, result, time.monotonic() - started)
    return _line(workflow, run.id, "done", result.outputs, result.metrics)


def absolute(config: ConfigT) -> ConfigT:
    """Return the configuration with its storage and the local paths in it made absolute.

    Raises:
        UserError: the storage is relative inside a Ray job, whose folder is an upload that is deleted later.
    """
    from components.orchestration.ledger import references

    storage = Path(config.storage).expanduser()
    if not storage.is_absolute() and "_ray_pkg_" in os.getcwd():
        raise UserError(
            f"storage={config.storage} is relative, and inside a Ray job that is a copy that gets deleted: "
            "give an absolute path that every node shares, as in storage=$PWD/artifacts"
        )
    values = config.model_dump()
    values["storage"] = str(storage.resolve())
    for dotted, _, value in references(config):
        path, mark, table = value.partition("#")
        if path and Path(path).expanduser().exists():
            _put(values, dotted.split("."), str(Path(path).expanduser().resolve()) + mark + table)
    return type(config).model_validate(values)


def _split(arguments: list[str], leading: str | None = None) -> tuple[set[str], str | None, list[str]]:
    """Return the flags, the YAML file if one is given, and the overrides; a bare first word sets ``leading``."""
    flags = {argument for argument in arguments if argument.startswith("-")}
    if unknown := flags - {"--plan", "--force"}:
        raise UserError(f"unknown option {sorted(unknown)[0]}: there are --help, --plan and --force")
    rest = [argument for argument in arguments if argument not in flags]
    named = []
    if leading and rest and "=" not in rest[0] and Path(rest[0]).suffix not in (".yaml", ".yml"):
        named, rest = [f"{leading}={rest[0]}"], rest[1:]
    if rest and "=" not in rest[0]:
        return flags, rest[0], [*named, *rest[1:]]
    return flags, None, [*named, *rest]


def _help(workflow: str, doc: str, schema: type[WorkflowConfig], leading: str | None) -> str:
    words = f"[{leading.upper()}] " if leading else ""
    usage = f"usage: python -m workflows.{workflow} {words}[CONFIG.yaml] [key=value …] [--plan] [--force]"
    lines = [doc.strip(), "", usage]
    lines += ["", "  --plan   show the resolved configuration and the estimates; start nothing"]
    lines += ["  --force  do it again even if the ledger has it as done", "", "keys:"]
    for key, kind, default, description in describe(schema):
        lines.append(f"  {key}: {kind} = {default}" if default != "required" else f"  {key}: {kind} (required)")
        if description:
            lines.append(f"      {description}")
    return "\n".join(lines)


def _plan(workflow: str, config: WorkflowConfig, estimate: Callable[[Any], dict[str, Any]] | None) -> str:
    from components.orchestration.ledger import step_key

    lines = [f"# {workflow}, step key {step_key(workflow, config)[:12]}", to_yaml(config)]
    if estimate is not None:
        lines += ["# estimates", *(f"{name}: {value}" for name, value in estimate(config).items())]
    return "\n".join(lines)


def _line(
    workflow: str, run_id: str | None, status: str, outputs: dict[str, Any], metrics: dict[str, float] | None = None
) -> dict[str, Any]:
    return {"workflow": workflow, "run_id": run_id, "status": status, "outputs": outputs, "metrics": metrics or {}}


def _with_registered_models(config: ConfigT, storage: Path) -> ConfigT:
    """Return the configuration with ``models:/`` and ``runs:/`` references replaced by the folders behind them.

    An alias moves: what it points at today is what enters the step key. An adapter's alias is served under its name,
    so its reference stays, with today's version in it.
    """
    from components.orchestration.ledger import references
    from components.tracking.run import pin_registered, resolve_registered

    values = config.model_dump()
    for dotted, kind, value in references(config):
        if kind == "model" and value.startswith(("models:/", "runs:/")):
            _put(values, dotted.split("."), resolve_registered(storage, value))
        elif kind == "adapter":
            _put(values, dotted.split("."), pin_registered(storage, value))
    return type(config).model_validate(values)


@contextlib.contextmanager
def _only_one(storage: Path, workflow: str, key: str) -> Iterator[None]:
    """Hold the step's lock, which the kernel frees even after a hard kill.

    A job whose pipeline was killed takes a while to end with its cluster, so the lock is waited for.

    Raises:
        UserError: another process is at the same step and stays at it.
    """
    folder = storage / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / f"{workflow}-{key[:12]}").open("w") as lock:
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    sentence = f"{workflow} with this configuration is running already: wait for it or stop it"
                    raise UserError(sentence) from error
                logger.info("waiting for another process that is at the same %s", workflow)
                time.sleep(_LOCK_POLL_S)
        yield


def _put(values: Any, path: list[str], value: str) -> None:
    for part in path[:-1]:
        values = values[int(part)] if isinstance(values, (list, tuple)) else values[part]
    last: Any = int(path[-1]) if isinstance(values, list) else path[-1]
    values[last] = value


def _leaves(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value:
            leaves.update(_leaves(value, f"{prefix}{name}."))
        else:
            leaves[prefix + name] = value
    return leaves


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for noisy in ("alembic", "mlflow", "httpx", "ray.data", "urllib3", "deepspeed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses a faster kernel that nothing here uses
