"""The trainer's side of the rollout engines: weights pushed and verified, answers drawn, every wait with an end."""

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from components.training.ppo.experience import Answer
from components.training.ppo.settings import RolloutConfig

ResultT = TypeVar("ResultT")
logger = logging.getLogger(__name__)

_MAX_DEATHS = 3  # in one question: what is asked, or what there is to answer it with, kills the engine


class Rollouts(Protocol):
    """What the loop is handed; a test hands it a fake."""

    replaced: int

    def push(self, weights: Callable[[], Iterable[tuple[str, Any]]], version: int) -> None:
        """Let the engines hold the weights that ``weights()`` yields."""

    def draw(
        self, prompts: Sequence[Sequence[int]], samples: int, seed: int, greedy: bool = False
    ) -> list[list[Answer]]:
        """Return ``samples`` answers to each prompt."""


class EngineLost(RuntimeError):
    """An engine did not answer in time, or not with what it was given."""


@dataclass
class EngineRollouts:
    """Rollouts by one of the vLLM actors; each trainer worker has its own engine, or shares one."""

    engine: str  # the actor's name
    namespace: str
    config: RolloutConfig
    stop_ids: list[int]
    pushes: bool = True  # False where another worker pushes to the same engine
    replaced: int = 0  # engines that died and were started again
    _held: tuple[Any, int, str] | None = field(default=None, init=False)  # (weights in the object store, version, sum)
    _version: int = field(default=-1, init=False)  # that the engine should hold
    _weights: Callable[[], Iterable[tuple[str, Any]]] | None = field(default=None, init=False)  # of that version

    def push(self, weights: Callable[[], Iterable[tuple[str, Any]]], version: int) -> None:
        """Push weights, and check by their bytes that they arrived whole; what is made of them the log-ratio tells.

        Raises:
            EngineLost: they did not, or the engine does not say so in time.
        """
        self._version, self._weights, self._held = version, weights, None
        if self.pushes:
            self._hold()
            self._survive(self._load)

    def draw(
        self, prompts: Sequence[Sequence[int]], samples: int, seed: int, greedy: bool = False
    ) -> list[list[Answer]]:
        """Return ``samples`` answers to each prompt; if the engine dies, its successor gets the weights and draws.

        So does one that died before it was asked: it is back without a word, with the weights that it started with.

        Raises:
            EngineLost: no engine answers in time, or with the weights that were pushed.
        """
        settings = {
            "temperature": 0.0 if greedy else self.config.temperature,
            "max_tokens": self.config.max_new_tokens,
            "min_tokens": self.config.min_new_tokens,
            "stop_token_ids": self.stop_ids,
            "ignore_eos": self.config.min_new_tokens >= self.config.max_new_tokens,
        }

        def drawn() -> list[list[Answer]] | None:
            asked = ([list(p) for p in prompts], samples, settings, seed, self._version)
            found = self._wait(self._actor().generate.remote(*asked), "answers")
            return found and [[Answer(ids, logprobs, ended) for ids, logprobs, ended in own] for own in found]

        def ask() -> list[list[Answer]]:
            found = drawn()
            if found is None:
                logger.warning("rollout engine %s was restarted since it was last asked", self.engine)
                self.replaced += 1
                self._welcome()
                found = drawn()
            if found is None:
                raise EngineLost(f"rollout engine {self.engine} does not keep version {self._version} of the weights")
            return found

        return self._survive(ask)

    def _hold(self) -> None:
        """Put the weights into the object store, once a version."""
        import ray

        from components.models.rollout_engine import checksum, ship

        assert self._weights is not None
        if self._held is None:
            named = list(self._weights())
            self._held = (ray.put(ship(named)), self._version, checksum(named))

    def _load(self) -> None:
        assert self._held is not None
        weights, version, expected = self._held
        found = self._wait(self._actor().load.remote(weights, version), f"weights of version {version}")
        if found != expected:
            raise EngineLost(
                f"rollout engine {self.engine} holds weights with checksum {found[:12]}, not {expected[:12]}, "
                f"after version {version} was pushed"
            )

    def _survive(self, ask: Callable[[], ResultT]) -> ResultT:
        """Ask; if the engine dies meanwhile, wait for its successor, see that it gets the weights, and ask again."""
        import ray

        deadline, deaths, is_back = 0.0, 0, True
        while True:
            try:
                if not is_back:
                    self._welcome()
                    is_back = True
                return ask()
            except (ray.exceptions.ActorDiedError, ray.exceptions.ActorUnavailableError):
                if is_back:
                    logger.warning("rollout engine %s died: waiting for its successor", self.engine)
                    deadline, deaths, is_back = time.monotonic() + self.config.deadline_s, deaths + 1, False
                    self.replaced += 1
                if deaths == _MAX_DEATHS:
                    problem = f"died {deaths} times when asked for the same: see its log"
                    raise EngineLost(f"rollout engine {self.engine} {problem}") from None
                if time.monotonic() > deadline:
                    problem = f"died and was not back in {self.config.deadline_s:.0f} s"
                    raise EngineLost(f"rollout engine {self.engine} {problem}") from None
                time.sleep(1.0)

    def _welcome(self) -> None:
        """Give a restarted engine the weights, unless another worker has; it may be the first call that finds it back.

        A worker that does not push gives them, too: those that share the engine may be past their draw, and wait for
        this one in a collective.
        """
        version, _ = self._wait(self._actor().state.remote(), "a sign of life")
        if version != self._version:
            self._hold()
            self._load()

    def _actor(self) -> Any:
        import ray

        return ray.get_actor(self.engine, self.namespace)

    def _wait(self, future: Any, what: str) -> Any:
        import ray

        try:
            return ray.get(future, timeout=self.config.deadline_s)
        except ray.exceptions.GetTimeoutError as error:
            ray.kill(self._actor(), no_restart=False)  # its successor serves the next attempt
            raise EngineLost(
                f"rollout engine {self.engine} sent no {what} within {self.config.deadline_s:.0f} s "
                "(rollout.deadline_s): it is late or hangs"
            ) from error
