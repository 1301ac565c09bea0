"""Who waits for whom, where some requests have to be alone."""

import asyncio

from components.serving.turns import Turns


def run(*kinds: str) -> list[str]:
    """Take a turn for each of ``kinds``, in this order and at once; return who came in and went out, in order."""
    told: list[str] = []

    async def take(turns: Turns, name: str) -> None:
        async with turns.taken(alone=name.startswith("alone")):
            told.append(f"+{name}")
            for _ in range(5):
                await asyncio.sleep(0)
            told.append(f"-{name}")

    async def all_of_them() -> None:
        turns = Turns()
        await asyncio.wait_for(asyncio.gather(*(take(turns, name) for name in kinds)), 5)

    asyncio.run(all_of_them())
    return told


def test_requests_run_beside_each_other() -> None:
    assert run("a", "b") == ["+a", "+b", "-a", "-b"]


def test_one_that_is_alone_waits_for_those_before_it_and_those_after_it_wait() -> None:
    told = run("a", "b", "alone", "c", "d")
    assert told == ["+a", "+b", "-a", "-b", "+alone", "-alone", "+c", "+d", "-c", "-d"]


def test_several_that_are_alone_come_one_after_the_other_in_order() -> None:
    assert run("alone 1", "alone 2", "a", "alone 3") == [
        *("+alone 1", "-alone 1", "+alone 2", "-alone 2", "+a", "-a", "+alone 3", "-alone 3")
    ]


def test_a_turn_that_fails_or_is_given_up_lets_the_others_in() -> None:
    async def scenario() -> list[str]:
        turns, told = Turns(), []

        async def hang(alone: bool) -> None:
            async with turns.taken(alone=alone):
                await asyncio.sleep(60)

        for alone in (False, True):
            first = asyncio.create_task(hang(alone))
            await asyncio.sleep(0)
            waits = asyncio.create_task(hang(True))
            await asyncio.sleep(0)
            waits.cancel()
            first.cancel()
            await asyncio.gather(first, waits, return_exceptions=True)
            async with asyncio.timeout(5), turns.taken(alone=True):
                told.append("in")
        return told

    assert asyncio.run(scenario()) == ["in", "in"]
