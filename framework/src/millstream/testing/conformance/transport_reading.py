"""Reading: in log order, without a gap, from any position, and no wake-up is lost."""

from __future__ import annotations

import asyncio
import random

import pytest

from ...errors import PositionGone
from ...message import Record
from ...ports.transport import Transport
from .capabilities import requires
from .transport_case import Make, TransportCase, everything, keyed, take, values, within

__all__ = ["Reading"]


class Reading(TransportCase):
    async def test_a_reader_starts_behind_its_position(self, log: Transport, topic: str) -> None:
        """L1: reading after a position returns exactly what lies behind it, from every position."""
        await log.publish(topic, 0, keyed("k", 1, 2, 3, 4))
        records = await everything(log, topic, 0, after=0)
        for index, record in enumerate(records[:-1]):
            reader = log.read(topic, 0, record.position)
            assert await take(reader, 3 - index) == records[index + 1 :]
            await reader.aclose()

    async def test_a_killed_holder_is_followed_exactly(self, log: Transport, topic: str) -> None:
        """C4: K1 to K3 were handed to a holder that died, K4 waits; its successor resumes where the position stands."""
        await log.publish(topic, 0, keyed("k", 1, 2, 3))
        dying = log.read(topic, 0, 0)
        handed_out = await take(dying, 3)
        await log.publish(topic, 0, keyed("k", 4))
        # No word from the dead one: its reader is neither finished nor closed.
        for accepted in range(4):
            position = 0 if accepted == 0 else handed_out[accepted - 1].position
            successor = log.read(topic, 0, position)
            expected = [f"k:{number}" for number in range(accepted + 1, 5)]
            assert values(await take(successor, len(expected))) == expected
            await successor.aclose()
        await dying.aclose()

    async def test_next_returns_no_more_than_asked_for(self, log: Transport, topic: str) -> None:
        """`next(limit)` returns at least one record and at most `limit`; together they have no gap."""
        await log.publish(topic, 0, keyed("k", *range(50)))
        reader = log.read(topic, 0, 0)
        found: list[Record] = []
        limits = iter((1, 2, 7))
        while len(found) < 50:
            limit = next(limits, 500)
            step = await within(reader.next(limit))
            assert 1 <= len(step) <= limit
            found += step
        assert values(found) == [f"k:{number}" for number in range(50)]
        await reader.aclose()

    async def test_two_readers_do_not_share(self, log: Transport, topic: str) -> None:
        """L1: no consumer groups: every reader of a partition gets every record."""
        readers = [log.read(topic, 0, 0) for _ in range(3)]
        await log.publish(topic, 0, keyed("k", *range(10)))
        for reader in readers:
            assert values(await take(reader, 10)) == [f"k:{number}" for number in range(10)]
            await reader.aclose()

    async def test_an_open_reader_goes_on_behind_new_records(self, log: Transport, topic: str) -> None:
        """A reader that reached the end waits there and returns what is published next."""
        reader = log.read(topic, 0, (await log.bounds(topic, 0)).latest)
        waiting = asyncio.get_running_loop().create_task(within(reader.next(10)))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await log.publish(topic, 1, keyed("elsewhere", 1))
        await log.publish(topic, 0, keyed("k", 1, 2))
        first = list(await waiting)
        rest = await take(reader, 2 - len(first)) if len(first) < 2 else []
        assert values([*first, *rest]) == ["k:1", "k:2"]
        await reader.aclose()

    async def test_no_wake_up_is_lost(self, log: Transport, topic: str) -> None:
        """A record published between a reader's look and its wait wakes it, whatever the timing."""
        chance = random.Random(3)
        reader = log.read(topic, 0, (await log.bounds(topic, 0)).latest)
        for number in range(150):
            waiting = asyncio.get_running_loop().create_task(within(reader.next(10)))
            for _ in range(chance.randrange(6)):
                await asyncio.sleep(0)
            await log.publish(topic, 0, keyed("k", number))
            assert values(await waiting) == [f"k:{number}"]
        await reader.aclose()

    async def test_a_publisher_that_gave_up_still_wakes_readers(self, log: Transport, topic: str) -> None:
        """What a cancelled publish made durable reaches a waiting reader without any further publish."""
        chance = random.Random(5)
        for turn in range(40):
            before = await log.bounds(topic, 0)
            reader = log.read(topic, 0, before.latest)
            waiting = asyncio.get_running_loop().create_task(reader.next(10))
            publishing = asyncio.get_running_loop().create_task(log.publish(topic, 0, keyed("k", turn)))
            for _ in range(1 + chance.randrange(4)):
                await asyncio.sleep(0)
            publishing.cancel()
            await within(asyncio.wait([publishing]))
            await asyncio.wait([waiting], timeout=0.01)
            if (await log.bounds(topic, 0)).latest > before.latest:
                woken_by = await within(waiting)
                assert list(woken_by) == (await everything(log, topic, 0, after=before.latest))[: len(woken_by)]
            waiting.cancel()
            await within(asyncio.wait([waiting]))
            await reader.aclose()

    async def test_a_cancelled_next_loses_nothing(self, log: Transport, topic: str) -> None:
        """Cancelling `next` at any moment loses nothing: the same records come again."""
        chance = random.Random(9)
        reader = log.read(topic, 0, 0)
        found: list[Record] = []

        async def publisher() -> None:
            for start in range(0, 400, 10):
                await log.publish(topic, 0, keyed("k", *range(start, start + 10)))
                await asyncio.sleep(chance.random() * 0.002)

        async with asyncio.TaskGroup() as group:
            group.create_task(publisher())
            while len(found) < 400:
                step = asyncio.get_running_loop().create_task(reader.next(7))
                await asyncio.wait([step], timeout=chance.choice([0, 0, 0.0005, PATIENT]))
                step.cancel()
                await within(asyncio.wait([step]))
                if not step.cancelled():
                    found += step.result()
        assert values(found) == [f"k:{number}" for number in range(400)]
        await reader.aclose()

    async def test_a_position_beyond_the_end_is_an_error(self, log: Transport, topic: str) -> None:
        """L4: a position behind the last record means a log that was lost or put back: an error, never a silent skip."""
        await log.publish(topic, 0, keyed("k", 1, 2))
        latest = (await log.bounds(topic, 0)).latest
        with pytest.raises(PositionGone) as gone:
            await within(log.read(topic, 0, latest + 5).next(1))
        assert gone.value.position == latest + 5

    async def test_closing_a_reader_twice_is_fine(self, log: Transport, topic: str) -> None:
        """`aclose` of a reader is idempotent and leaves the others alone."""
        await log.publish(topic, 0, keyed("k", 1))
        closed, open_ = log.read(topic, 0, 0), log.read(topic, 0, 0)
        await take(closed, 1)
        await closed.aclose()
        await closed.aclose()
        await log.read(topic, 0, 0).aclose()
        assert values(await take(open_, 1)) == ["k:1"]
        await open_.aclose()

    async def test_a_restart_keeps_everything(self, make: Make, topic: str) -> None:
        """Where declared: records, positions and partition counts outlive the process that holds the log."""
        async with make() as log:
            requires(log.capabilities, "survives_restart")
            await log.provision(topic, 2)
            await log.publish(topic, 1, keyed("k", *range(600)))
            before = await everything(log, topic, 1)
            bounds = await log.bounds(topic, 1)
        async with make() as log:
            assert await log.partitions(topic) == 2
            assert await log.bounds(topic, 1) == bounds
            assert await everything(log, topic, 1) == before
            await log.publish(topic, 1, keyed("k", 600))
            assert values(await everything(log, topic, 1, after=before[-1].position)) == ["k:600"]


PATIENT = 0.01
