"""Requests first: background work keeps to its share while somebody waits for a reply, and only then."""

from __future__ import annotations

import asyncio

import pytest
from millstream.delivery.pacing import Pacer
from millstream.testing.clock import ManualClock


async def units_in(pacer: Pacer, clock: ManualClock, seconds: float, unit: float) -> int:
    """How many units of work get their turn; working takes time of the clock."""
    done = 0

    async def work() -> None:
        nonlocal done
        while True:
            await pacer.turn()
            await clock.sleep(unit)
            pacer.used(unit)
            done += 1

    async with asyncio.TaskGroup() as group:
        running = group.create_task(work())
        await clock.advance(seconds)
        running.cancel()
    return done


@pytest.mark.parametrize(("busy", "share", "expected"), [(False, 0.4, 100), (True, 0.5, 50), (True, 0.25, 25)])
async def test_background_work_keeps_to_its_share_while_requests_are_under_way(
    busy: bool, share: float, expected: int
) -> None:
    clock = ManualClock(0)
    pacer = Pacer(clock, share)
    pacer.busy = lambda: busy
    assert abs(await units_in(pacer, clock, 10.0, 0.1) - expected) <= 1


async def test_the_share_is_one_of_all_background_work_together() -> None:
    clock = ManualClock(0)
    pacer = Pacer(clock, 0.5)
    pacer.busy = lambda: True
    for _ in range(10):
        pacer.used(0.1)  # ten parts worked at once: the pause is that of all of them
    waiting = asyncio.get_running_loop().create_task(pacer.turn())
    await clock.advance(0.9)
    assert not waiting.done()
    await clock.advance(0.2)
    assert waiting.done()
