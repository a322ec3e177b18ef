"""Publishing: a confirmed prefix, and an order of first occurrences that no failure changes (rule L2)."""

from __future__ import annotations

import asyncio
import random
from itertools import pairwise

import pytest

from ...errors import RecordRefused
from ...message import Record
from ...ports.transport import Transport
from .capabilities import requires
from .transport_case import Make, TransportCase, everything, keyed, values, within

__all__ = ["Publishing"]


class Publishing(TransportCase):
    async def test_what_publish_confirms_is_there_in_order(self, log: Transport, topic: str) -> None:
        """L1: confirmed records lie in the log in the order of the call, at growing positions from 1 on."""
        assert await log.publish(topic, 2, keyed("k", *range(700))) == 700
        assert await log.publish(topic, 2, keyed("k", 700)) == 1
        records = await everything(log, topic, 2, after=0)
        assert values(records) == [f"k:{number}" for number in range(701)]
        positions = [record.position for record in records]
        assert positions[0] >= 1
        assert all(later > earlier for earlier, later in pairwise(positions))

    async def test_publishing_nothing_does_nothing(self, log: Transport, topic: str) -> None:
        """An empty publish confirms nothing and leaves nothing."""
        assert await log.publish(topic, 0, []) == 0
        bounds = await log.bounds(topic, 0)
        assert bounds.earliest == bounds.latest

    async def test_a_repeat_keeps_the_order_of_first_occurrences(self, log: Transport, topic: str) -> None:
        """L2: publishing older records again, as after a lost confirmation, never changes the order of first ones."""
        await log.publish(topic, 0, keyed("k", 1, 2, 3))
        await log.publish(topic, 0, keyed("k", 1, 2, 3, 4, 5))
        await log.publish(topic, 0, keyed("k", 2, 3))
        await log.publish(topic, 0, keyed("k", 4, 5, 6))
        assert first_occurrences(await everything(log, topic, 0)) == [f"k:{number}" for number in range(1, 7)]

    async def test_two_writers_of_one_key_each_keep_their_order(self, log: Transport, topic: str) -> None:
        """L2: a relay and its zombie may both publish a key: neither changes the order the other one made."""

        async def relay(log: Transport) -> None:
            done = 0
            while done < 60:
                done += await log.publish(topic, 0, keyed("k", *range(done, min(done + 7, 60))))

        async with asyncio.TaskGroup() as group:
            group.create_task(relay(log))
            await asyncio.sleep(0)
            group.create_task(relay(log))
        records = await everything(log, topic, 0)
        assert len(records) == 120, "a log keeps repeats: the inbox drops them"
        assert first_occurrences(records) == [f"k:{number}" for number in range(60)]

    async def test_fifty_publishers_at_once_lose_and_swap_nothing(self, log: Transport, topic: str) -> None:
        """L2: under fifty concurrent publishers every key keeps its order and nothing is missing or doubled."""

        async def publisher(name: int) -> None:
            done = 0
            while done < 40:
                batch = keyed(f"writer-{name}", *range(done, done + 1 + (name + done) % 5))
                done += await log.publish(topic, name % 4, batch)

        async with asyncio.TaskGroup() as group:
            for name in range(50):
                group.create_task(publisher(name))
        for partition in range(4):
            numbers: dict[str | None, list[int]] = {}
            for record in await everything(log, topic, partition):
                numbers.setdefault(record.key, []).append(int(record.value.decode().partition(":")[2]))
            assert len(numbers) == len(range(partition, 50, 4))
            assert all(found == list(range(len(found))) and len(found) >= 40 for found in numbers.values())

    async def test_a_record_as_large_as_declared_is_taken(self, log: Transport, topic: str) -> None:
        """A record of exactly the declared largest size goes through, unchanged."""
        value = random.Random(1).randbytes(log.capabilities.largest_record_bytes)
        assert await log.publish(topic, 0, [Record(value, "large"), *keyed("k", 1)]) == 2
        large, after = await everything(log, topic, 0)
        assert large.value == value
        assert after.value == b"k:1"

    async def test_a_record_above_the_declared_size_is_refused(self, log: Transport, topic: str) -> None:
        """A record above the declared largest size is RecordRefused, with its index and the reason."""
        too_large = Record(bytes(log.capabilities.largest_record_bytes + 1), "large")
        with pytest.raises(RecordRefused) as refused:
            await log.publish(topic, 0, [too_large])
        assert refused.value.index == 0
        assert refused.value.reason
        assert await everything(log, topic, 0) == []

    async def test_a_refused_record_stops_its_key(self, log: Transport, topic: str) -> None:
        """L2: what stands before a refused record is durable; nothing later of its key is."""
        too_large = Record(bytes(log.capabilities.largest_record_bytes + 1), "a")
        batch = [*keyed("a", 1), *keyed("b", 1), too_large, *keyed("b", 2), *keyed("a", 3)]
        with pytest.raises(RecordRefused) as refused:
            await log.publish(topic, 0, batch)
        assert refused.value.index == 2
        found = values(await everything(log, topic, 0))
        assert found[:2] == ["a:1", "b:1"]
        assert "a:3" not in found
        await log.publish(topic, 0, keyed("b", 2))
        assert first_occurrences(await everything(log, topic, 0)) == ["a:1", "b:1", "b:2"]

    async def test_a_cancelled_publish_may_be_repeated(self, log: Transport, topic: str) -> None:
        """L2: a publisher cancelled at any moment leaves a prefix; publishing all of it again keeps the order."""
        chance = random.Random(7)
        for turn in range(30):
            batch = keyed("k", *range(turn * 20, turn * 20 + 20))
            await cancelled_midway(log, topic, batch, chance)
            assert await log.publish(topic, 0, batch) == 20
        assert first_occurrences(await everything(log, topic, 0)) == [f"k:{number}" for number in range(600)]

    async def test_an_atomic_batch_is_there_whole_or_not_at_all(self, log: Transport, topic: str) -> None:
        """Where declared: of one publish either all records become durable, or none."""
        requires(log.capabilities, "batch_is_atomic")
        chance = random.Random(11)
        for turn in range(30):
            await cancelled_midway(log, topic, keyed(f"batch-{turn}", *range(20)), chance)
        await log.publish(topic, 0, keyed("last", *range(20)))
        found = await everything(log, topic, 0)
        assert len(found) % 20 == 0
        assert all(len({record.key for record in found[at : at + 20]}) == 1 for at in range(0, len(found), 20))

    async def test_several_processes_share_the_log(self, make: Make, topic: str) -> None:
        """Where declared: what one instance publishes, another one reads."""
        async with make() as here:
            requires(here.capabilities, "several_processes")
            await here.provision(topic, 1)
            async with make() as there:
                assert await there.partitions(topic) == 1
                await here.publish(topic, 0, keyed("k", 1))
                await there.publish(topic, 0, keyed("k", 2))
                assert values(await everything(here, topic, 0)) == ["k:1", "k:2"]
                assert values(await everything(there, topic, 0)) == ["k:1", "k:2"]


async def cancelled_midway(log: Transport, topic: str, batch: list[Record], chance: random.Random) -> None:
    """Publish and cancel after a random number of turns of the loop, or a little time."""
    publishing = asyncio.get_running_loop().create_task(log.publish(topic, 0, batch))
    for _ in range(chance.randrange(4)):
        await asyncio.sleep(0)
    if chance.random() < 0.5:
        await asyncio.sleep(chance.random() * 0.003)
    publishing.cancel()
    await within(asyncio.wait([publishing]))


def first_occurrences(records: list[Record]) -> list[str]:
    """The values without repeats, in the order in which each came first."""
    return list(dict.fromkeys(values(records)))
