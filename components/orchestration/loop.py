"""A loop: steps that run round after round, each round going on from what the one before it has left.

It is unrolled before anything runs: the step ``train`` of a loop becomes ``train-1``, ``train-2``, …, ordinary steps
with step keys of their own. What a round hands on is a reference like any other, so that nothing here knows of values.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from components.config import UserError
from components.orchestration.graph import LoopConfig, StepConfig, is_reference, references, split_reference

_CARRIED = "loop"  # <loop.name>: inside of a loop, what the round before has handed on
_ROUND = "round"  # <loop.round>: 1, 2, …; also within a longer text
_ROUND_IN_TEXT = re.compile(rf"<{_CARRIED}\.{_ROUND}>")
_ANY_IN_TEXT = re.compile(rf"<{_CARRIED}\.(\w*)>")


@dataclass(frozen=True)
class Origin:
    """Where an unrolled step stands in the YAML."""

    loop: str
    step: str
    round: int
    rounds: int

    @property
    def where(self) -> str:
        """The dotted path of the step, for error messages."""
        return f"loops.{self.loop}.steps.{self.step}"


@dataclass(frozen=True)
class Unrolled:
    """All steps, with references of the steps outside of loops led to the last rounds."""

    steps: dict[str, StepConfig]
    origins: dict[str, Origin]  # of the steps that come from loops
    _last: dict[str, dict[str, Any]]  # loop → name → what its last round hands on
    _rounds: dict[str, int]  # step of a loop → rounds

    def lead(self, value: Any, where: str) -> Any:
        """Return ``value`` with ``<loop's name.name>`` and ``<step of a loop.output>`` led to the last round.

        Raises:
            UserError: a loop hands on no such name.
        """
        return _replaced(value, self._lead, where)

    def _lead(self, value: str, where: str) -> Any:
        if not is_reference(value):
            return value
        step, name = split_reference(value)
        if step in self._rounds:
            return f"<{step}-{self._rounds[step]}.{name}>"
        if step not in self._last:
            return value
        if name not in self._last[step]:
            offered = ", ".join(self._last[step])
            raise UserError(
                f"{where}: {value}: the loop '{step}' hands on {offered}; name one of them, or a step of it"
            )
        return self._last[step][name]

    def waits(self, names: list[str]) -> list[str]:
        """Return the steps to wait for, with a loop's or its step's name led to the last round."""
        found: list[str] = []
        for name in names:
            if name in self._rounds:
                found.append(f"{name}-{self._rounds[name]}")
            elif name in self._last:
                found += [step for step, at in self.origins.items() if at.loop == name and at.round == at.rounds]
            else:
                found.append(name)
        return found


def unroll(steps: Mapping[str, StepConfig], loops: Mapping[str, LoopConfig]) -> Unrolled:
    """Return all steps: those outside of loops, and each loop's steps once a round.

    Raises:
        UserError: there are none, a name is there twice, ``start`` and ``carry`` do not have the same names, or a
            reference within a loop, or to one, is to nothing that there is.
    """
    if not steps and not loops:
        raise UserError("the pipeline has no steps: give steps, or loops with steps")
    _check_names(steps, loops)
    made: dict[str, StepConfig] = {}
    origins: dict[str, Origin] = {}
    last: dict[str, dict[str, Any]] = {}
    for name, loop in loops.items():
        carried = dict(loop.start)
        for number in range(1, loop.rounds + 1):
            turn = _Turn(name, loop, number, carried)
            for own, step in loop.steps.items():
                made[f"{own}-{number}"] = turn.step(own, step)
                origins[f"{own}-{number}"] = Origin(name, own, number, loop.rounds)
            carried = {key: turn.fill(value, f"loops.{name}.carry.{key}") for key, value in loop.carry.items()}
        last[name] = carried
    if taken := sorted(set(made) & set(steps)):
        raise UserError(f"the step '{taken[0]}' has the name of a round of a loop's step: rename it")
    rounds = {own: loop.rounds for loop in loops.values() for own in loop.steps}
    found = Unrolled({}, origins, last, rounds)
    for _ in loops:  # what one loop hands on may be what another has handed on to it
        last |= {
            name: {key: found.lead(value, f"loops.{name}.carry.{key}") for key, value in own.items()}
            for name, own in last.items()
        }
    for own, step in {**steps, **made}.items():
        where = origins[own].where if own in origins else f"steps.{own}"
        found.steps[own] = _mapped(step, where, found.lead, found.waits)
    return found


@dataclass(frozen=True)
class _Turn:
    """One round of a loop."""

    name: str
    loop: LoopConfig
    number: int
    carried: Mapping[str, Any]

    def step(self, own: str, step: StepConfig) -> StepConfig:
        """Return the step as it is in this round."""
        where = f"loops.{self.name}.steps.{own}"
        after = [f"{name}-{self.number}" if name in self.loop.steps else name for name in step.after]
        return _mapped(step, where, self.fill, lambda _: after)

    def fill(self, value: Any, where: str) -> Any:
        """Return ``value`` with what was handed on, the round's number, and references to steps of this round."""
        return _replaced(value, self._fill, where)

    def _fill(self, value: str, where: str) -> Any:
        if is_reference(value):
            step, name = split_reference(value)
            if step in self.loop.steps:
                return f"<{step}-{self.number}.{name}>"
            if step == _CARRIED and name == _ROUND:
                return self.number
            if step == _CARRIED and name in self.carried:
                return self.carried[name]
            if step != _CARRIED:
                return value
        value = _ROUND_IN_TEXT.sub(str(self.number), value)
        if wrong := _ANY_IN_TEXT.search(value):
            offered = f"<loop.{_ROUND}>" + "".join(f", <loop.{name}>" for name in self.carried)
            said = "is not handed on" if wrong.group(1) not in self.carried else "may not stand within a longer text"
            raise UserError(f"{where}: {wrong.group()} {said}: there are {offered}")
        return value


def _check_names(steps: Mapping[str, StepConfig], loops: Mapping[str, LoopConfig]) -> None:
    known = {name: f"steps.{name}" for name in steps}
    if loops and _CARRIED in known:
        raise UserError(f"steps.{_CARRIED}: <{_CARRIED}.…> is what a loop's round gets: rename the step")
    for name, loop in loops.items():
        where = f"loops.{name}"
        for own, place in [(name, where), *((own, f"{where}.steps.{own}") for own in loop.steps)]:
            if own == _CARRIED or own in known:
                other = known.get(own, f"<{_CARRIED}.…>")
                raise UserError(f"{place} has the name of {other}: rename one, or references could mean both")
            known[own] = place
        if _ROUND in {*loop.start, *loop.carry}:
            raise UserError(f"{where}: <{_CARRIED}.{_ROUND}> is the round's number: call what is handed on otherwise")
        for key in sorted(set(loop.start) ^ set(loop.carry)):
            given, lacks = ("start", "carry") if key in loop.start else ("carry", "start")
            raise UserError(f"{where}.{given} has '{key}', and {where}.{lacks} has not: give it in both")
        for step, _ in references(loop.start):
            if step in loop.steps or step in (name, _CARRIED):
                raise UserError(f"{where}.start: '{step}' is of the loop itself: start from something outside of it")


def _mapped(
    step: StepConfig, where: str, change: Callable[[Any, str], Any], waits: Callable[[list[str]], list[str]]
) -> StepConfig:
    """Return the step with ``change`` applied to all that may refer to other steps, named by its keys."""
    sweep = step.sweep
    if sweep is not None:
        parts = {name: change(getattr(sweep, name), f"{where}.sweep.{name}") for name in ("grid", "points")}
        sweep = sweep.model_copy(update=parts)
    config = change(step.config, f"{where}.config")
    return step.model_copy(update={"config": config, "after": waits(step.after), "sweep": sweep})


def _replaced(value: Any, change: Callable[[str, str], Any], where: str) -> Any:
    """Return ``value`` with each text in it changed; a text is named by the keys that lead to it."""
    if isinstance(value, dict):
        return {key: _replaced(item, change, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item, change, where) for item in value]
    return change(value, where) if isinstance(value, str) else value
