"""Closing: nobody hangs, and what was confirmed stays confirmed."""

from __future__ import annotations

import asyncio

import pytest

from ...errors import Misconfigured, TransportUnavailable
from .capabilities import requires
from .transport_case import Make, TransportCase, everything, keyed, within

__all__ = ["Closing"]


class Closing(TransportCase):
    async def test_closing_ends_waiting_readers(self, make: Make, topic: str) -> None:
        """A reader that waits while the log closes gets TransportUnavailable or is cancelled; it never hangs."""
        async with make() as log:
            await log.provision(topic, 4)
            readers = [log.read(topic, partition, 0) for partition in range(4) for _ in range(3)]
            waiting = [asyncio.get_running_loop().create_task(reader.next(1)) for reader in readers]
            await asyncio.sleep(0.01)
        await within(asyncio.wait(waiting))
        for task in waiting:
            assert task.cancelled() or isinstance(task.exception(), TransportUnavailable)
        for reader in readers:
            await reader.aclose()

    async def test_closing_under_publishers_keeps_what_was_confirmed(self, make: Make, topic: str) -> None:
        """Publishers under way while the log closes get a confirmation or TransportUnavailable; the former holds."""
        confirmed = dict.fromkeys(range(8), 0)
        everybody_published = asyncio.Event()

        async def publisher(name: int) -> None:
            while True:
                confirmed[name] += await log.publish(topic, name % 2, keyed(f"writer-{name}", confirmed[name]))
                if min(confirmed.values()) >= 3:
                    everybody_published.set()
                await asyncio.sleep(0)

        async with make() as log:
            await log.provision(topic, 2)
            tasks = [asyncio.get_running_loop().create_task(publisher(name)) for name in confirmed]
            await within(everybody_published.wait())
            survives = log.capabilities.survives_restart
        await within(asyncio.wait(tasks))
        for task in tasks:
            assert task.cancelled() or isinstance(task.exception(), TransportUnavailable)
        if not survives:
            return
        async with make() as log:
            for partition in range(2):
                found = await everything(log, topic, partition)
                for name in range(partition, 8, 2):
                    count = sum(record.key == f"writer-{name}" for record in found)
                    assert confirmed[name] <= count <= confirmed[name] + 1

    async def test_a_closed_log_says_so(self, make: Make, topic: str) -> None:
        """Using a closed log is TransportUnavailable, not a hang and not a driver's error."""
        async with make() as log:
            await log.provision(topic, 1)
            reader = log.read(topic, 0, 0)
        with pytest.raises(TransportUnavailable):
            await within(log.publish(topic, 0, keyed("k", 1)))
        with pytest.raises(TransportUnavailable):
            await within(reader.next(1))
        with pytest.raises(TransportUnavailable):
            await within(log.bounds(topic, 0))
        await reader.aclose()

    async def test_a_log_for_one_process_refuses_a_second(self, make: Make, topic: str) -> None:
        """A durable log that only one process may hold refuses a second holder, and the first one goes on."""
        async with make() as log:
            requires(log.capabilities, "survives_restart")
            requires(log.capabilities, "several_processes", False)
            await log.provision(topic, 1)
            with pytest.raises(Misconfigured):
                async with make():
                    pass
            await log.publish(topic, 0, keyed("k", 1))
            assert len(await everything(log, topic, 0)) == 1
