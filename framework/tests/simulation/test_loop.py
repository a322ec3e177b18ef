"""The simulated event loop: one order per seed in every interpreter, virtual time, and nothing of the machine."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from millstream.testing.simulation.errors import Deadlock, NotSimulated, Stuck
from millstream.testing.simulation.loop import Order, SimulationLoop


def order_of(seed: int, order: Order = "any", tasks: int = 8) -> list[int]:
    loop, seen = SimulationLoop(seed, order=order), list[int]()

    async def one(number: int) -> None:
        await asyncio.sleep(0)
        seen.append(number)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(tasks):
                group.create_task(one(number))

    loop.run(main)
    return seen


def test_a_seed_decides_the_order_of_what_is_ready() -> None:
    orders = {tuple(order_of(seed)) for seed in range(30)}

    assert len(orders) > 20
    assert all(order_of(seed) == order_of(seed) for seed in range(30))
    assert all(sorted(order) == list(range(8)) for order in orders)


def test_inside_a_process_the_order_of_asyncio_can_be_kept() -> None:
    assert {tuple(order_of(seed, "fifo")) for seed in range(10)} == {tuple(range(8))}


def test_processes_interleave_also_where_each_keeps_its_order() -> None:
    def interleaving(seed: int) -> tuple[str, ...]:
        loop, seen = SimulationLoop(seed, order="fifo"), list[str]()

        async def work(name: str) -> None:
            for _ in range(4):
                seen.append(name)
                await asyncio.sleep(0)

        async def main() -> None:
            for name in "ab":
                loop.process(name).spawn(work(name))
            await asyncio.sleep(1)

        loop.run(main)
        return tuple(seen)

    assert len({interleaving(seed) for seed in range(20)}) > 5


def test_one_seed_gives_one_digest_in_interpreters_that_hash_differently() -> None:
    script = str(Path(__file__).with_name("workload.py"))
    printed = {
        subprocess.run(
            [sys.executable, script, *map(str, range(8))],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout
        for hash_seed in ("0", "1", "4242")
    }

    assert len(printed) == 1
    assert len(set(printed.pop().split())) == 16  # and each seed and order another one


def test_the_clock_jumps_when_nothing_is_ready() -> None:
    loop = SimulationLoop(1)

    async def main() -> float:
        await asyncio.sleep(86_400)
        return asyncio.get_running_loop().time()

    assert 86_400 <= loop.run(main) < 86_401
    assert loop.steps < 20


def test_a_timeout_is_over_in_virtual_time() -> None:
    loop = SimulationLoop(1)

    async def main() -> None:
        async with asyncio.timeout(3600):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        loop.run(main)
    assert loop.time() >= 3600


def test_a_job_for_an_executor_runs_inline_at_a_moment_that_the_seed_decides() -> None:
    def moment(seed: int) -> tuple[int, float]:
        loop = SimulationLoop(seed)

        async def main() -> int:
            return await asyncio.get_running_loop().run_in_executor(None, threading.get_ident)

        return loop.run(main), loop.time()

    ran = [moment(seed) for seed in range(5)]
    assert {thread for thread, _ in ran} == {threading.get_ident()}
    assert len({when for _, when in ran}) == 5
    assert moment(3) == ran[3]


async def _thread() -> None:
    threading.Thread(target=lambda: None).start()


async def _socket() -> None:
    socket.socket()


async def _program() -> None:
    subprocess.run(["true"], check=True)  # noqa: ASYNC221 - it never starts


async def _handler() -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: None)


async def _connection() -> None:
    await asyncio.open_connection("127.0.0.1", 9)


async def _child() -> None:
    await asyncio.create_subprocess_exec("true")


@pytest.mark.parametrize("reach", [_thread, _socket, _program, _handler, _connection, _child])
def test_who_reaches_for_the_machine_is_refused_by_name(reach: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await reach()

    with pytest.raises(NotSimulated, match="through a port"):
        SimulationLoop(1).run(main)


def test_the_machine_is_back_after_a_run() -> None:
    async def main() -> None: ...

    SimulationLoop(1).run(main)
    threading.Thread(target=lambda: None).start()
    socket.socket().close()
    assert gc.isenabled()


def test_a_thread_that_reaches_the_loop_is_refused() -> None:
    loop, go, errors = SimulationLoop(1), threading.Event(), list[BaseException]()

    def other() -> None:
        go.wait(20)
        try:
            loop.call_soon_threadsafe(lambda: None)
        except NotSimulated as error:
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()

    async def main() -> None:
        go.set()
        thread.join(20)

    loop.run(main)
    assert len(errors) == 1


def test_a_deadlock_names_who_waits_and_where() -> None:
    loop, lock = SimulationLoop(1), asyncio.Lock()

    async def second() -> None:
        await lock.acquire()

    async def main() -> None:
        await lock.acquire()
        async with asyncio.TaskGroup() as group:
            group.create_task(second(), name="the second one")

    with pytest.raises(Deadlock) as caught:
        loop.run(main)
    said = str(caught.value)
    assert "the second one: simulation/test_loop.py:" in said
    assert "second, for Lock.acquire" in said
    assert "test: simulation/test_loop.py:" in said


def test_a_task_that_never_waits_ends_the_run() -> None:
    loop = SimulationLoop(1, most_steps=500)

    async def main() -> None:
        while True:  # noqa: ASYNC110 - what is tested
            await asyncio.sleep(0)

    with pytest.raises(Stuck, match="no end after 500 steps"):
        loop.run(main)


def test_a_run_that_only_lets_time_pass_ends() -> None:
    loop = SimulationLoop(1, most_seconds=3600)

    async def main() -> None:
        while True:  # noqa: ASYNC110 - what is tested
            await asyncio.sleep(1)

    with pytest.raises(Stuck, match="no end after 3600 s"):
        loop.run(main)


def test_what_nobody_handles_is_remembered() -> None:
    loop = SimulationLoop(1)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        await asyncio.sleep(0.1)

    loop.run(main)
    assert len(loop.unhandled) == 1
    assert "ZeroDivisionError" in loop.unhandled[0]
