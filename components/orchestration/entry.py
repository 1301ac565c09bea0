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

from components import storage as place
from components.config import UserError, WorkflowConfig, leaves, load, to_yaml
from components.config_help import describe
from components.orchestration.cluster import job_env

if TYPE_CHECKING:
    from components.tracking.run import Result, Run

ConfigT = TypeVar("ConfigT", bound=WorkflowConfig)
DONE, FAILED, INVALID = 0, 1, 2
_LOCK_TIMEOUT_S, _LOCK_POLL_S, _LOCK_NEWS_S = 60.0, 3.0, 60.0
logger = logging.getLogger(__name__)


def entry(
    schema: type[ConfigT],
    main: "Callable[[ConfigT, Run], Result]",
    identity: Callable[[ConfigT], str] | None = None,
    leading: str | None = None,
) -> NoReturn:
    """Run a workflow from the command line and exit: 0 done, 1 failed, 2 the user's input was wrong.

    Usage: ``[CONFIG.yaml] [key=value …] [--help] [--plan [--cluster FILE]] [--force]``. The last line on stdout is one
    JSON object; everything else goes to stderr.

    Args:
        identity: for a workflow that always runs and goes on with one MLflow run: the name of that run.
        leading: key that a bare first word sets, as in ``python -m workflows.benchmark ppo``.
    """
    module = sys.modules[main.__module__]
    workflow = Path(str(module.__file__)).stem
    arguments, cluster = _take_cluster(sys.argv[1:])
    _log_to_stderr()
    use_all_cores()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stops in order, as Ctrl-C does
    try:
        if "--help" in arguments or "-h" in arguments:
            print(_help(workflow, str(module.__doc__), schema, leading))
            sys.exit(DONE)
        flags, yaml_path, overrides = _split(arguments, leading)
        if cluster is not None and "--plan" not in flags:
            raise UserError("--cluster FILE goes with --plan: it shows what would be asked for, and starts nothing")
        config = absolute(load(schema, here(yaml_path), overrides))
        if "--plan" in flags:
            print(_plan(workflow, config, getattr(module, "plan", None), cluster, getattr(module, "schema_of", None)))
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
    from components.orchestration.handover import bring, hand_over
    from components.orchestration.ledger import find_done
    from components.orchestration.registered import key_of, looked_up, pinned
    from components.tracking.environment import commit, package_versions
    from components.tracking.run import check_tracking, finish_run, log_params, open_run

    check_tracking(config.storage)
    place.check(config.storage)
    storage = place.folder(config.storage)
    config = pinned(config)
    key = hashlib.sha256(f"{workflow} {name}".encode()).hexdigest() if name else key_of(workflow, config)
    with _only_one(storage, workflow, key, _LOCK_TIMEOUT_S if name else float("inf")):
        started = time.monotonic()
        done = None if force or name else find_done(workflow, config, key)
        if done is not None:
            logger.info("%s is done already: run %s (--force repeats it)", workflow, done.run_id)
            return _line(workflow, done.run_id, "done", done.result.outputs, done.result.metrics)
        facts = {"raylign.commit": commit()}
        running = open_run(
            storage, config.experiment, workflow, key, facts, name=name, reopen=bool(name), address=config.storage
        )
        with running as run:
            run.log_text(to_yaml(config), "config.yaml")
            run.log_text(json.dumps(package_versions(), indent=2), "packages.json")
            if not name:  # the one run of a name has many configurations, its steps' runs have one each
                log_params(run, leaves(config.model_dump(mode="json")))
            result = hand_over(main(bring(looked_up(config)), run), run, config.storage)
            finish_run(run, result, time.monotonic() - started)
    return _line(workflow, run.id, "done", result.outputs, result.metrics)


def use_all_cores() -> None:
    """Let a Ray job's own process, which scores and measures models, compute with every core that it may use.

    Ray leaves it one thread, as it asks for no CPU. What a person has set in the job's environment stays.
    """
    given = job_env()
    if given is not None and "OMP_NUM_THREADS" not in given:
        os.environ["OMP_NUM_THREADS"] = str(len(os.sched_getaffinity(0)))


def absolute(config: ConfigT) -> ConfigT:
    """Return the configuration with its storage and the local paths in it made absolute.

    Raises:
        UserError: the storage is relative inside a Ray job, whose folder is an upload that is deleted later.
    """
    from components.orchestration.ledger import put, references

    storage = place.plain(config.storage)
    if not place.is_remote(storage) and not Path(storage).expanduser().is_absolute() and "_ray_pkg_" in os.getcwd():
        raise UserError(
            f"storage={config.storage} is relative, and inside a Ray job that is a copy that gets deleted: "
            "give an absolute path that every node shares, as in storage=$PWD/artifacts, or an address as s3://…"
        )
    values = config.model_dump()
    values["storage"] = place.normal(storage)
    for where, _, value in references(config):
        if (there := place.resolved(value)) != value:
            put(values, where, there)
    return type(config).model_validate(values)


def prepared(config: ConfigT) -> ConfigT:
    """Return a configuration as a workflow's ``main`` gets it: registered models looked up, inputs on this host.

    Raises:
        UserError: the storage cannot be written to, or something that the configuration names is not there.
    """
    from components.orchestration.handover import bring
    from components.orchestration.registered import looked_up, pinned
    from components.tracking.run import check_tracking

    config = absolute(config)
    check_tracking(config.storage)
    place.check(config.storage)
    return bring(looked_up(pinned(config)))


def here(yaml_path: str | None) -> str | None:
    """Return the path of a YAML file that may lie in an object store: there, a pipeline leaves its steps' files."""
    if yaml_path is None or not place.is_remote(yaml_path):
        return yaml_path
    return str(place.download(yaml_path, place.local(yaml_path.rpartition("/")[0], yaml_path)))


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
    usage = (
        f"usage: python -m workflows.{workflow} {words}[CONFIG.yaml] [key=value …] [--plan [--cluster FILE]] [--force]"
    )
    lines = [doc.strip(), "", usage]
    lines += ["", "  --plan   show the resolved configuration and the estimates; start nothing"]
    lines += ["  --cluster FILE  and what the cluster of that file would be asked for, and its price an hour"]
    lines += ["  --force  do it again even if the ledger has it as done", "", "keys:"]
    for key, kind, default, description in describe(schema):
        lines.append(f"  {key}: {kind} = {default}" if default != "required" else f"  {key}: {kind} (required)")
        if description:
            lines.append(f"      {description}")
    return "\n".join(lines)


def _take_cluster(arguments: list[str]) -> tuple[list[str], str | None]:
    """Return the other arguments, and the file that ``--cluster FILE`` names."""
    if "--cluster" not in arguments:
        return arguments, None
    at = arguments.index("--cluster")
    named = arguments[at + 1 : at + 2]
    return arguments[:at] + arguments[at + 2 :], named[0] if named else ""


def _plan(
    workflow: str,
    config: WorkflowConfig,
    estimate: Callable[[Any], dict[str, Any]] | None,
    cluster: str | None,
    schema_of: Callable[[str], type[WorkflowConfig]] | None,
) -> str:
    from components.orchestration.cluster_plan import cluster_plan, resources
    from components.orchestration.registered import key_of, pinned

    config = pinned(config)
    lines = [f"# {workflow}, step key {key_of(workflow, config)[:12]}", to_yaml(config)]
    if estimate is not None:
        lines += ["# estimates", *(f"{name}: {value}" for name, value in estimate(config).items())]
    lines += ["# resources, at least", *resources(config, schema_of)]
    if cluster is not None:
        lines += cluster_plan(cluster, config, schema_of)
    return "\n".join(lines)


def _line(
    workflow: str, run_id: str | None, status: str, outputs: dict[str, Any], metrics: dict[str, float] | None = None
) -> dict[str, Any]:
    return {"workflow": workflow, "run_id": run_id, "status": status, "outputs": outputs, "metrics": metrics or {}}


@contextlib.contextmanager
def _only_one(storage: Path, workflow: str, key: str, limit_s: float) -> Iterator[None]:
    """Hold the step's lock, which the kernel frees even after a hard kill.

    A step that another process runs is waited for without limit: if it ends well, its result is taken. A pipeline goes
    on with the one run of its name and waits ``limit_s`` for what is left of a killed one, whose jobs take a while to
    end with their cluster.

    Raises:
        UserError: another process holds the lock for longer than ``limit_s``.
    """
    folder = storage / "locks"
    folder.mkdir(exist_ok=True)
    with (folder / f"{workflow}-{key[:12]}").open("w") as lock:
        started, news = time.monotonic(), 0.0
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                waited_s = time.monotonic() - started
                if waited_s > limit_s:
                    raise UserError(f"a {workflow} of this name is running already: wait for it or stop it") from error
                if waited_s >= news:
                    logger.info("waiting for another process that runs the same %s", workflow)
                    news += _LOCK_NEWS_S
                time.sleep(_LOCK_POLL_S)
        yield


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S"
    )
    for noisy in ("alembic", "mlflow", "httpx", "ray.data", "urllib3", "deepspeed"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it misses a faster kernel that nothing here uses
