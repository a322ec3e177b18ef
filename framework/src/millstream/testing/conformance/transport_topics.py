"""Topics, partitions and bounds: what a log consists of."""

from __future__ import annotations

import pytest

from ...errors import Misconfigured
from ...message import Record
from ...ports.transport import Bounds, Transport, TransportCapabilities
from .transport_case import Make, TransportCase, everything, keyed, values, within

__all__ = ["Topics"]


class Topics(TransportCase):
    async def test_capabilities_are_declared(self, log: Transport, conformance_declares: object) -> None:
        """The adapter declares what its engine can do."""
        declared = log.capabilities
        assert callable(conformance_declares)
        conformance_declares(declared)
        assert isinstance(declared, TransportCapabilities)
        assert declared.name
        assert declared.largest_record_bytes >= 1_000_000, "a message may take 1 MB"

    async def test_durability_says_what_is_too_weak(self, log: Transport) -> None:
        """Durability is read back from the engine, and a weaker promise names its setting."""
        durability = await log.durability()
        assert bool(durability.why_not) == (not (durability.process_crash and durability.power_loss))
        assert log.capabilities.survives_restart or not durability.process_crash

    async def test_provisioning_twice_changes_nothing(self, log: Transport, topic: str) -> None:
        """Provisioning an existing topic with the same count does nothing."""
        await log.publish(topic, 1, keyed("k", 1))
        await log.provision(topic, 4)
        assert await log.partitions(topic) == 4
        assert values(await everything(log, topic, 1)) == ["k:1"]

    async def test_another_partition_count_is_refused(self, log: Transport, topic: str) -> None:
        """The partition count is recorded, and provisioning with another one is refused."""
        for count in (3, 5):
            with pytest.raises(Misconfigured, match="4"):
                await log.provision(topic, count)
        assert await log.partitions(topic) == 4

    async def test_a_topic_nobody_provisioned_has_no_partitions(self, log: Transport, topic: str) -> None:
        """`partitions` is None while a topic does not exist."""
        assert await log.partitions(f"{topic}-other") is None

    async def test_using_a_topic_nobody_provisioned_is_an_error(self, log: Transport, topic: str) -> None:
        """L4: nothing is published to, or read from, a topic that was never provisioned."""
        other = f"{topic}-other"
        with pytest.raises(Misconfigured):
            await log.publish(other, 0, keyed("k", 1))
        with pytest.raises(Misconfigured):
            await log.bounds(other, 0)
        with pytest.raises(Misconfigured):
            await within(log.read(other, 0, 0).next(1))
        assert await log.partitions(other) is None, "an error must not create the topic"

    async def test_a_partition_that_is_not_there_is_an_error(self, log: Transport, topic: str) -> None:
        """A partition number outside of the recorded count is refused."""
        for partition in (4, -1):
            with pytest.raises(Misconfigured):
                await log.publish(topic, partition, keyed("k", 1))

    async def test_bounds_follow_what_is_published(self, log: Transport, topic: str) -> None:
        """Bounds tell the position before the first record and that of the last one."""
        empty = await log.bounds(topic, 0)
        assert empty.earliest == empty.latest
        await log.publish(topic, 0, keyed("k", 1, 2, 3))
        full = await log.bounds(topic, 0)
        records = await everything(log, topic, 0, after=full.earliest)
        assert values(records) == ["k:1", "k:2", "k:3"]
        assert full == Bounds(earliest=full.earliest, latest=records[-1].position)
        assert full.earliest < records[0].position

    async def test_partitions_do_not_mix(self, make: Make, topic: str) -> None:
        """L1: a partition holds what was published to it and nothing else, with many partitions too."""
        async with make() as log:
            await log.provision(topic, 32)
            for turn in range(3):
                for partition in range(32):
                    assert await log.publish(topic, partition, keyed(f"p{partition}", turn)) == 1
            for partition in range(32):
                expected = [f"p{partition}:{turn}" for turn in range(3)]
                assert values(await everything(log, topic, partition)) == expected

    async def test_topics_do_not_mix(self, log: Transport, topic: str) -> None:
        """L1: two topics share nothing."""
        other = f"{topic}.other-one_2"
        await log.provision(other, 1)
        await log.publish(topic, 0, keyed("here", 1))
        await log.publish(other, 0, keyed("there", 1, 2))
        assert values(await everything(log, topic, 0)) == ["here:1"]
        assert values(await everything(log, other, 0)) == ["there:1", "there:2"]

    async def test_keys_and_values_come_back_as_they_were(self, log: Transport, topic: str) -> None:
        """Keys of any script, no key, an empty key, and every byte come back unchanged."""
        keys = ["é", "日本語", "🧾", "a b\tc", "-", "", None, "x" * 500, "ключ"]
        sent = [Record(bytes(range(256)) + str(index).encode(), key) for index, key in enumerate(keys)]
        sent.append(Record(b"", "empty value"))
        assert await log.publish(topic, 0, sent) == len(sent)
        got = await everything(log, topic, 0)
        assert [(record.key, record.value) for record in got] == [(record.key, record.value) for record in sent]
