"""Runs a pipeline's steps: what is done is recognised, the rest become Ray jobs as their inputs get ready."""

import contextlib
import json
import shlex
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, replace
from typing import Any

from components import storage as place
from components.config import RayConfig, UserError, WorkflowConfig, check, parse, to_yaml
from components.orchestration.cluster import local_cluster, local_size
from components.orchestration.entry import absolute
from components.orchestration.graph import StepConfig, fill, is_reference, order
from components.orchestration.jobs import run_job
from components.orchestration.ledger import find_done
from components.orchestration.loop import Origin
from components.orchestration.progress import Board
from components.orchestration.registered import key_of, pinned
from components.orchestration.steps import Setting, Step
from components.orchestration.sweep import Point, expand, shown
from components.orchestration.sweep_run import conclude_sweep
from components.tracking.run import Finished

_LOST = (
    "its job ended well, but the ledger does not have it: one of its inputs changed as it began, or an output is gone; "
    "run the pipeline again"
)


def check_steps(
    steps: Mapping[str, StepConfig],
    schema_of: Callable[[str], type[WorkflowConfig]],
    origins: Mapping[str, Origin] | None = None,
) -> dict[str, set[str]]:
    """Refuse, before anything starts, steps in a circle, unknown workflows and keys, and values of a wrong type.

    Returns step → steps that it waits for, in an order in which they can run; the points of a sweep are among them,
    and the sweep waits for them.

    Args:
        origins: of the steps that come from loops.

    Raises:
        UserError: naming the step and the key.
    """
    every, sweeps = expand(steps)
    waits = _waits(steps, sweeps)
    for name in waits:
        if name not in sweeps:
            where = origins[name].where if origins and name in origins else f"steps.{name}"
            check(schema_of(every[name].workflow), every[name].config, f"{where}.config.", is_reference)
    return waits


def describe_steps(
    steps: Mapping[str, StepConfig],
    schema_of: Callable[[str], type[WorkflowConfig]],
    origins: Mapping[str, Origin] | None = None,
) -> dict[str, str]:
    """Return for people what each step, round and point of a sweep waits for. Raises as ``check_steps``."""
    waits = check_steps(steps, schema_of, origins)
    points = {point.name: point for own in expand(steps)[1].values() for point in own}
    told = {}
    for name, wanted in waits.items():
        told[name] = f"after {', '.join(sorted(wanted)) or 'nothing'}"
        if name in points:
            told[name] += f"; point of a sweep: {shown(points[name].values)}"
        elif sweep := steps[name].sweep:
            told[name] = f"the best of {len(wanted)} points, with the {sweep.mode} of {sweep.metric}"
        if origins and name in origins:
            told[name] += f"; round {origins[name].round} of {origins[name].rounds} of {origins[name].loop}"
    return told


def run_steps(steps: Mapping[str, StepConfig], setting: Setting) -> dict[str, Step]:
    """Run every step that the ledger does not have as done; a failed step blocks only those that wait for it.

    The points of a sweep run as steps of their own, and are among the steps returned.
    """
    every, sweeps = expand(steps)
    waits = _waits(steps, sweeps)
    ended: dict[str, Step] = {}
    waiting: set[str] = set()  # for a free slot: looked at again when there is one, as aliases move meanwhile
    replaced = _replaced({name: every[name] for name in waits if name in every}, setting.schema_of)
    stopping = threading.Event()
    with contextlib.ExitStack() as stack:
        board = stack.enter_context(Board(list(waits)))
        address = _LazyAddress(stack, setting.ray)
        pool = stack.enter_context(ThreadPoolExecutor(setting.max_parallel))
        running: dict[Future[Step], str] = {}
        try:
            while len(ended) < len(waits):
                for name in _ready(waits, ended, set(running.values())):
                    if name in waiting and len(running) == setting.max_parallel:
                        continue
                    if name in sweeps:
                        step: Step | WorkflowConfig = conclude_sweep(name, steps[name], sweeps[name], ended, setting)
                    else:
                        known = (name, every[name], ended, setting)
                        step = _blocked(waits[name], ended) or _recognise(*known, replaced=name in replaced)
                    if isinstance(step, Step):
                        ended[name] = step
                        board.end(name, step.status, step.seconds)
                    elif len(running) < setting.max_parallel:
                        target = address.get()
                        at_once = min(setting.max_parallel, _points_left(name, sweeps, ended))
                        ask = (name, every[name], step, target, setting, board, stopping, at_once)
                        job = pool.submit(_run, *ask)
                        running[job] = name
                    else:
                        waiting.add(name)
                if not running:
                    continue
                finished, _ = wait(running, timeout=1.0, return_when=FIRST_COMPLETED)
                for job in finished:
                    name = running.pop(job)
                    ended[name] = job.result()
                    board.end(name, ended[name].status, ended[name].seconds)
        except BaseException:
            stopping.set()
            raise
    owner = {point.name: name for name, points in sweeps.items() for point in points}
    return {name: replace(ended[name], sweep=owner.get(name)) for name in waits}


class _LazyAddress:
    """The cluster's address; a local cluster starts only when the first step really has to run."""

    def __init__(self, stack: contextlib.ExitStack, ray: RayConfig) -> None:
        self._stack, self._ray, self._address = stack, ray, ray.address

    def get(self) -> str:
        if self._address is None:
            self._address = self._stack.enter_context(local_cluster(local_size(self._ray))).dashboard
        return self._address


def _waits(steps: Mapping[str, StepConfig], sweeps: Mapping[str, Sequence[Point]]) -> dict[str, set[str]]:
    """Step → steps that it waits for, in an order in which they can run: a sweep's points come right before it."""
    waits: dict[str, set[str]] = {}
    for name, wanted in order(steps).items():
        for point in sweeps.get(name, ()):
            waits[point.name] = wanted
        waits[name] = {point.name for point in sweeps[name]} if name in sweeps else wanted
    return waits


def _ready(waits: Mapping[str, set[str]], ended: Mapping[str, Step], running: set[str]) -> Iterator[str]:
    for name, wanted in waits.items():
        if name not in ended and name not in running and wanted <= set(ended):
            yield name


def _points_left(name: str, sweeps: Mapping[str, Sequence[Point]], ended: Mapping[str, Step]) -> int:
    """Return how many points of the sweep that a step belongs to have not ended; 1 for a step of none."""
    for points in sweeps.values():
        names = {point.name for point in points}
        if name in names:
            return len(names - set(ended))
    return 1


def _blocked(wanted: set[str], ended: Mapping[str, Step]) -> Step | None:
    failed = sorted(name for name in wanted if ended[name].status in ("failed", "blocked"))
    return Step("blocked", error=f"waits for {failed[0]}") if failed else None


def _replaced(steps: Mapping[str, StepConfig], schema_of: Callable[[str], type[WorkflowConfig]]) -> set[str]:
    """Return the steps, given in the order in which they run, whose effect a later one replaces.

    Each round of a loop may move one alias: where the last round's move stands, those before it are done, too.
    """
    last: dict[tuple[Any, ...], str] = {}
    found = set()
    for name, step in steps.items():
        schema = schema_of(step.workflow)
        if schema.replaces:
            defaults = {key: schema.model_fields[key].default for key in schema.replaces}
            target = (step.workflow, *(str(step.config.get(key, value)) for key, value in defaults.items()))
            if target in last:
                found.add(last[target])
            last[target] = name
    return found


def _recognise(
    name: str, step: StepConfig, ended: Mapping[str, Step], setting: Setting, *, replaced: bool = False
) -> Step | WorkflowConfig:
    """Return the step as cached, or as failed where its configuration is wrong, else its configuration.

    Args:
        replaced: whether a later step of the pipeline does something else in the same place.
    """
    try:
        config = _configure(name, step, ended, setting)
        found = find_done(step.workflow, config, key_of(step.workflow, config), in_effect=not replaced)
    except UserError as error:
        return Step("failed", error=str(error), is_users_error=True)
    return _ended("cached", found, 0.0) if found else config


def _configure(name: str, step: StepConfig, ended: Mapping[str, Step], setting: Setting) -> WorkflowConfig:
    offers = {
        known: {
            "run_id": end.run_id,
            "metrics": end.metrics,
            "log": str(setting.log_of(known)),
            **end.outputs,
        }
        for known, end in ended.items()
    }
    values: dict[str, Any] = {"seed": setting.seed, **fill(step.config, offers)}
    values |= setting.shared
    # A step is a job of its own: what the pipeline waits for, each of them does, unless it says so itself. A cluster of
    # the pipeline's own does not grow.
    if setting.ray.address:
        values["ray"] = {**setting.ray.model_dump(include={"wait_for", "wait_s"}), **values.get("ray", {})}
    return pinned(absolute(parse(setting.schema_of(step.workflow), values, f"steps.{name}.config.")))


def _run(
    name: str,
    step: StepConfig,
    config: WorkflowConfig,
    address: str,
    setting: Setting,
    board: Board,
    stopping: threading.Event,
    at_once: int = 1,
) -> Step:
    """Run one step as a Ray job; called in a thread of its own.

    Args:
        at_once: points of its sweep that run beside each other.
    """
    board.start(name)
    started = time.monotonic()
    try:
        key = key_of(step.workflow, config)  # of the inputs as they are now: a step may write to what it reads
    except UserError as error:  # one of them went while the step waited for its turn
        return Step("failed", error=str(error), is_users_error=True)
    for folder in ("configs", "logs"):
        (setting.folder / folder).mkdir(parents=True, exist_ok=True)
    path = setting.folder / "configs" / f"{name}.yaml"
    path.write_text(to_yaml(config))
    yaml = place.address(config.storage, path)
    if place.is_remote(yaml):  # the job may start on a host that does not see this one's files
        place.upload(path, yaml)
    log_path = setting.log_of(name)
    log_path.unlink(missing_ok=True)
    end = run_job(
        address,
        f"python -m workflows.{step.workflow} {shlex.quote(yaml)}",
        project=setting.project,
        parent_run=setting.parent_run,
        log_path=log_path,
        on_progress=lambda done, total, unit: board.progress(name, done, total, unit),
        stop_requested=stopping.is_set,
        at_once=at_once,
    )
    seconds = time.monotonic() - started
    found = find_done(step.workflow, config, key, in_effect=False)  # another may have had its turn since
    if end.succeeded and found:
        return _ended("done", found, seconds)
    line = end.line or {}
    if end.succeeded and line and not config.keyed:
        return Step("done", seconds, line["run_id"], line["outputs"], line["metrics"])
    message = _LOST if end.succeeded else end.message
    said = line.get("outputs", {}).get("error") or message or "the job died without a word"
    return Step("failed", seconds, error=f"{said} (log: {log_path})", is_users_error=line.get("status") == "invalid")


def _ended(status: str, found: Finished, seconds: float) -> Step:
    return Step(status, seconds, found.run_id, found.result.outputs, found.result.metrics)


def as_json(steps: Mapping[str, Step]) -> str:
    """Return the ends of the steps as JSON."""
    return json.dumps({name: asdict(step) for name, step in steps.items()}, indent=2)
