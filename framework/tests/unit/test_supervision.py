"""Long-lived tasks come back after errors, with growing pauses, and stop when told."""

from __future__ import annotations

import asyncio

from millstream.delivery.supervision import Supervised
from millstream.ids import SystemEntropy
from millstream.ports.instrumentation import Silent
from millstream.testing.clock import ManualClock


class Fixed(SystemEntropy):
    def random(self) -> float:
        return 1.0


class Fragile:
    def __init__(self, failures: int) -> None:
        self.left = failures
        self.runs = 0
        self.stopped = asyncio.Event()

    async def run(self) -> None:
        self.runs += 1
        if self.left:
            self.left -= 1
            raise ValueError("broken")
        await self.stopped.wait()

    def stop(self) -> None:
        self.stopped.set()


def supervised(part: Fragile, clock: ManualClock) -> Supervised:
    return Supervised(part, "fragile", clock=clock, entropy=Fixed(), instrumentation=Silent(), labels=())


async def test_a_failed_task_comes_back_after_growing_pauses() -> None:
    clock, part = ManualClock(0), Fragile(3)
    async with asyncio.TaskGroup() as group:
        task = supervised(part, clock)
        group.create_task(task.run())
        seen: list[int] = []
        for pause in (0.0, 0.2, 0.4, 0.8):
            await clock.advance(pause)
            seen.append(part.runs)
        task.stop()
    assert seen == [1, 2, 3, 4]


async def test_a_stop_does_not_wait_for_the_pause() -> None:
    clock, part = ManualClock(0), Fragile(1)
    async with asyncio.TaskGroup() as group:
        task = supervised(part, clock)
        running = group.create_task(task.run())
        await clock.advance(0)
        task.stop()
        await asyncio.wait_for(running, 5)
    assert part.runs == 1
