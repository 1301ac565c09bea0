"""What the trainer does about engines that die, with the engine's own part played by functions."""

from types import SimpleNamespace

import pytest
import ray

from components.training.ppo import rollout
from components.training.ppo.rollout import EngineLost, EngineRollouts
from components.training.ppo.settings import RolloutConfig


@pytest.fixture
def rollouts(monkeypatch: pytest.MonkeyPatch) -> EngineRollouts:
    monkeypatch.setattr(rollout.time, "sleep", lambda _: None)
    found = EngineRollouts("engine-0", "namespace", RolloutConfig(deadline_s=5.0), [2])
    monkeypatch.setattr(found, "_welcome", lambda: None)
    return found


def dies(times: int):
    left = iter([True] * times)

    def ask() -> str:
        if next(left, False):
            raise ray.exceptions.ActorDiedError()
        return "answers"

    return ask


@pytest.mark.parametrize("deaths", [0, 1, 2])
def test_an_engine_that_dies_is_asked_again(rollouts, deaths) -> None:
    assert rollouts._survive(dies(deaths)) == "answers" and rollouts.replaced == deaths


def test_an_engine_that_died_unseen_gets_the_weights_before_it_draws(rollouts, monkeypatch) -> None:
    """It was restarted between two questions, so that no call told of its death."""
    held, asked = [-1], []

    def generate(*given):
        asked.append(given[-1])
        return [[([7], [-0.5], True)]] if given[-1] == held[0] else None

    engine = SimpleNamespace(generate=SimpleNamespace(remote=generate))
    monkeypatch.setattr(rollouts, "_actor", lambda: engine)
    monkeypatch.setattr(rollouts, "_wait", lambda found, _: found)
    monkeypatch.setattr(rollouts, "_welcome", lambda: held.__setitem__(0, 4))
    rollouts.pushes = False
    rollouts.push(list, 4)
    assert rollouts.draw([[1]], 1, seed=0)[0][0].ids == [7] and asked == [4, 4] and rollouts.replaced == 1
    assert rollouts.draw([[1]], 1, seed=1) and rollouts.replaced == 1
    held[0] = -1
    monkeypatch.setattr(rollouts, "_welcome", lambda: None)
    with pytest.raises(EngineLost, match="engine-0 does not keep version 4"):
        rollouts.draw([[1]], 1, seed=2)


def test_what_kills_every_engine_is_not_asked_for_ever(rollouts) -> None:
    with pytest.raises(EngineLost, match="engine-0 died 3 times when asked for the same"):
        rollouts._survive(dies(99))
    assert rollouts._survive(dies(2)) == "answers"  # each question has its own count


def test_an_engine_that_does_not_come_back_is_named_when_the_time_is_up(rollouts, monkeypatch) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(rollout.time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(rollouts, "_welcome", dies(99))
    with pytest.raises(EngineLost, match="engine-0 died and was not back in 5 s"):
        rollouts._survive(dies(1))
    assert rollouts.replaced == 1
