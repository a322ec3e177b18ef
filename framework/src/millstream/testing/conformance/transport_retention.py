"""Retention: it never passes the slowest subscription, and a position that is gone is an error (rule L4)."""

from __future__ import annotations

import asyncio

import pytest

from ...errors import PositionGone
from ...message import Record
from ...ports.transport import Bounds, Transport
from .capabilities import requires
from .transport_case import PATIENCE, Make, TransportCase, everything, keyed, take, values, within

__all__ = ["Retention"]


class Retention(TransportCase):
    async def test_what_nobody_marked_stays(self, log: Transport, topic: str) -> None:
        """L4: without a mark nothing is deleted: nobody is known to have read anything."""
        requires(log.capabilities, "retention_by_position")
        await self._published(log, topic)
        await self.retain(log)
        assert len(await everything(log, topic, 0, after=0)) == 20

    async def test_the_slowest_mark_holds_everything_behind_it(self, log: Transport, topic: str) -> None:
        """L4: retention deletes up to the slowest subscription's mark and not one record further."""
        requires(log.capabilities, "retention_by_position")
        await log.mark("slow", topic, 0, 0)
        records = await self._published(log, topic)
        await log.mark("fast", topic, 0, records[-1].position)
        await log.mark("slow", topic, 0, records[7].position)
        await self._retained(log, topic, records[7].position)
        assert await everything(log, topic, 0, after=records[7].position) == records[8:]
        await self.retain(log)
        assert await log.bounds(topic, 0) == Bounds(earliest=records[7].position, latest=records[-1].position)

    async def test_a_subscription_without_a_mark_on_a_partition_holds_it(self, log: Transport, topic: str) -> None:
        """L4: a subscription of the topic that never marked this partition has read nothing of it."""
        requires(log.capabilities, "retention_by_position")
        await log.mark("new", topic, 0, 0)
        records = await self._published(log, topic)
        await log.mark("fast", topic, 0, records[-1].position)
        await self.retain(log)
        assert len(await everything(log, topic, 0, after=0)) == 20
        other = await self._published(log, topic, 1)
        await log.mark("fast", topic, 1, other[-1].position)
        await self.retain(log)
        assert len(await everything(log, topic, 1, after=0)) == 20

    async def test_a_mark_that_moves_back_holds_again(self, log: Transport, topic: str) -> None:
        """F5: a replay moves its subscription back; from then on retention holds what it will read."""
        requires(log.capabilities, "retention_by_position")
        await log.mark("replayed", topic, 0, 0)
        records = await self._published(log, topic)
        await log.mark("fast", topic, 0, records[-1].position)
        await log.mark("replayed", topic, 0, records[11].position)
        await log.mark("replayed", topic, 0, records[3].position)
        await self.retain(log)
        held = await everything(log, topic, 0)
        assert held[-len(records[12:]) :] == records[12:]
        assert (await log.bounds(topic, 0)).earliest <= records[11].position

    async def test_a_forgotten_subscription_holds_nothing(self, log: Transport, topic: str) -> None:
        """`unmark` forgets a subscription; the others alone decide."""
        requires(log.capabilities, "retention_by_position")
        records = await self._published(log, topic)
        await log.mark("gone", topic, 0, 0)
        await log.mark("alive", topic, 0, records[9].position)
        await self.retain(log)
        assert (await log.bounds(topic, 0)).earliest < records[0].position
        await log.unmark("gone", topic)
        await self._retained(log, topic, records[9].position)
        assert await everything(log, topic, 0) == records[10:]

    async def test_a_position_that_is_gone_is_an_error(self, log: Transport, topic: str) -> None:
        """L4: reading after a position whose successor was deleted is PositionGone, which names where to go on."""
        requires(log.capabilities, "retention_by_position")
        records = await self._published(log, topic)
        waiting_there = log.read(topic, 0, records[2].position)
        await log.mark("only", topic, 0, records[9].position)
        await self._retained(log, topic, records[9].position)
        for reader in (waiting_there, log.read(topic, 0, 0), log.read(topic, 0, records[8].position)):
            with pytest.raises(PositionGone) as gone:
                await within(reader.next(5))
            assert gone.value.earliest == records[9].position
            assert (gone.value.topic, gone.value.partition) == (topic, 0)
            await reader.aclose()
        assert await take(log.read(topic, 0, gone.value.earliest), 10) == records[10:]

    async def test_positions_are_never_given_twice(self, log: Transport, topic: str) -> None:
        """L3: after retention deleted every record, new ones get positions that were never used."""
        requires(log.capabilities, "retention_by_position")
        records = await self._published(log, topic)
        await self._all_deleted(log, topic, records)
        await log.publish(topic, 0, keyed("k", 20))
        (new,) = await everything(log, topic, 0)
        assert new.position > records[-1].position

    async def test_positions_are_never_given_twice_after_a_restart(self, make: Make, topic: str) -> None:
        """L3: also not when the log was reopened while it held nothing."""
        async with make() as log:
            requires(log.capabilities, "retention_by_position")
            requires(log.capabilities, "survives_restart")
            await log.provision(topic, 1)
            records = await self._published(log, topic)
            await self._all_deleted(log, topic, records)
        async with make() as log:
            assert await log.bounds(topic, 0) == Bounds(earliest=records[-1].position, latest=records[-1].position)
            await log.publish(topic, 0, keyed("k", 20))
            (new,) = await everything(log, topic, 0)
            assert new.position > records[-1].position

    async def test_marks_outlive_a_restart(self, make: Make, topic: str) -> None:
        """L4: a slow subscription still holds its records after a restart, before it says a word."""
        async with make() as log:
            requires(log.capabilities, "retention_by_position")
            requires(log.capabilities, "survives_restart")
            await log.provision(topic, 1)
            records = await self._published(log, topic)
            await log.mark("slow", topic, 0, records[4].position)
        async with make() as log:
            await log.mark("fast", topic, 0, records[-1].position)
            await self._retained(log, topic, records[4].position)
            await self.retain(log)
            assert await everything(log, topic, 0) == records[5:]

    async def test_a_forgotten_subscription_stays_forgotten(self, make: Make, topic: str) -> None:
        """L4: a mark that was noted shortly before `unmark` does not come back with a restart."""
        async with make() as log:
            requires(log.capabilities, "retention_by_position")
            requires(log.capabilities, "survives_restart")
            await log.provision(topic, 1)
            records = await self._published(log, topic)
            await log.mark("gone", topic, 0, records[2].position)
            await log.unmark("gone", topic)
        async with make() as log:
            await log.mark("alive", topic, 0, records[9].position)
            await self._retained(log, topic, records[9].position)

    async def test_reading_goes_on_while_retention_deletes(self, log: Transport, topic: str) -> None:
        """L4: retention beside a reader and a publisher costs neither of them a record."""
        requires(log.capabilities, "retention_by_position")
        reader, found = log.read(topic, 0, 0), list[Record]()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._publish_slowly(log, topic))
            while len(found) < 600:
                found += await within(reader.next(50))
                await log.mark("only", topic, 0, found[-1].position)
                await self.retain(log)
        assert values(found) == [f"k:{number}" for number in range(600)]
        await reader.aclose()

    async def _publish_slowly(self, log: Transport, topic: str) -> None:
        for start in range(0, 600, 20):
            await log.publish(topic, 0, keyed("k", *range(start, start + 20)))

    async def _published(self, log: Transport, topic: str, partition: int = 0) -> list[Record]:
        await log.publish(topic, partition, keyed("k", *range(20)))
        return await everything(log, topic, partition, after=0)

    async def _all_deleted(self, log: Transport, topic: str, records: list[Record]) -> None:
        await log.mark("only", topic, 0, records[-1].position)
        await self._retained(log, topic, records[-1].position)

    async def _retained(self, log: Transport, topic: str, earliest: int) -> None:
        """Wait until retention reached `earliest`, as it must by itself or by `retain`."""
        async with asyncio.timeout(PATIENCE):
            while (await log.bounds(topic, 0)).earliest < earliest:
                await self.retain(log)
                await asyncio.sleep(0.001)
        assert (await log.bounds(topic, 0)).earliest == earliest
