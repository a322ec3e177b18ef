"""Simulated processes: a kill is kill -9, and a pause is SIGSTOP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from millstream.testing.simulation.loop import SimulationLoop
from millstream.testing.simulation.process import Process, current


def test_a_kill_runs_no_finally_and_no_exit_of_a_context() -> None:
    loop, ran = SimulationLoop(1), list[str]()

    @asynccontextmanager
    async def resource() -> AsyncIterator[None]:
        try:
            yield
        finally:
            ran.append("resource")

    async def inner() -> None:
        try:
            async with resource():
                await asyncio.sleep(10)
        except BaseException:
            ran.append("except")
            raise
        finally:
            ran.append("finally")

    async def victim() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(inner())
            group.create_task(inner())

    async def main() -> list[str]:
        process = loop.process("victim")
        process.spawn(victim())
        await asyncio.sleep(1)
        process.kill()
        await asyncio.sleep(100)
        return list(ran)

    assert loop.run(main) == []


def test_nothing_that_a_dead_process_waits_for_wakes_it() -> None:
    loop, seen = SimulationLoop(1), list[str]()

    async def victim(event: asyncio.Event) -> None:
        await event.wait()
        seen.append("woken")

    async def main() -> None:
        event, process = asyncio.Event(), loop.process("victim")
        process.spawn(victim(event))
        await asyncio.sleep(1)
        process.kill()
        event.set()
        await asyncio.sleep(1)

    loop.run(main)
    assert seen == []


def test_what_a_task_starts_belongs_to_its_process() -> None:
    loop, seen = SimulationLoop(1), list[str]()

    def note() -> None:
        found = current()
        seen.append("none" if found is None else found.name)

    async def deeper() -> None:
        note()
        asyncio.get_running_loop().call_later(1, note)

    async def body() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(deeper())

    async def main() -> None:
        loop.process("p").spawn(body())
        await asyncio.sleep(2)
        note()

    loop.run(main)
    note()
    assert seen == ["p", "p", "outside", "none"]


def test_a_process_that_kills_itself_goes_no_further_than_its_step() -> None:
    loop, seen = SimulationLoop(1), list[str]()

    async def suicide(process: Process) -> None:
        await asyncio.sleep(1)
        process.kill()
        seen.append("rest of the step")
        try:
            await asyncio.sleep(0)
        finally:
            seen.append("next step")

    async def main() -> list[str]:
        process = loop.process("p")
        process.spawn(suicide(process))
        await asyncio.sleep(10)
        return list(seen)

    assert loop.run(main) == ["rest of the step"]


def test_fences_come_first_and_run_outside_of_the_victim() -> None:
    loop, seen = SimulationLoop(1), list[object]()

    async def main() -> None:
        process = loop.process("p")

        def fence() -> None:
            found = current()
            seen.append((process.alive, found is not None and found.name))

        process.fence(fence)
        process.fence(lambda: seen.append("taken back"))()
        process.kill()
        process.kill()

    loop.run(main)
    assert seen == [(False, "outside")]


def test_a_paused_process_finds_everything_due_when_it_goes_on() -> None:
    loop, seen = SimulationLoop(1), list[float]()

    async def body() -> None:
        while True:
            await asyncio.sleep(1)
            seen.append(round(asyncio.get_running_loop().time()))

    async def main() -> None:
        process = loop.process("p")
        process.spawn(body())
        await asyncio.sleep(2.5)
        process.pause()
        await asyncio.sleep(20)
        assert seen == [1, 2]
        process.resume()
        await asyncio.sleep(2)

    loop.run(main)
    assert seen == [1, 2, 22, 24] or seen[:3] == [1, 2, 23]


def test_a_nemesis_strikes_before_a_step_of_its_choice() -> None:
    def seen_until(step: int) -> int:
        loop, count = SimulationLoop(7), 0

        async def body() -> None:
            nonlocal count
            while True:
                count += 1
                await asyncio.sleep(0)

        async def main() -> None:
            process = loop.process("p")
            process.spawn(body())
            loop.at_step(step, process.kill)
            await asyncio.sleep(0.01)

        loop.run(main)
        return count

    assert seen_until(40) > seen_until(20) > 0


def test_the_owner_of_every_step_can_be_told() -> None:
    loop = SimulationLoop(3)
    loop.visits = []

    async def body() -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def main() -> None:
        loop.process("p").spawn(body())
        await asyncio.sleep(1)

    loop.run(main)
    assert [process.name for process in loop.visits].count("p") == 6
