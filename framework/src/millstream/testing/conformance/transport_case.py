"""What the transport suite's parts share: the fixtures an adapter author overrides, and reading with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TypeVar
from uuid import uuid4

import pytest

from ...message import Record
from ...ports.transport import Reader, Transport

__all__ = ["PATIENCE", "Make", "TransportCase", "everything", "keyed", "take", "values", "within"]

T = TypeVar("T")
Make = Callable[[], Transport]

PATIENCE = 15.0
"""Seconds after which something that should have happened counts as a failure. Never how long a test waits."""

PARTITIONS = 4


class TransportCase:
    """Override `make`, and where retention does not come by itself within seconds, `retain`."""

    @pytest.fixture
    def make(self) -> Make:
        """A function that gives a transport, not yet opened. Within one test every call gives the same engine with the
        same data, so that opening a second one after the first is a restart."""
        raise NotImplementedError("override the fixture `make`")

    async def retain(self, log: Transport) -> None:
        """Make the adapter delete now what retention may delete. Unneeded where it deletes at the mark."""

    @pytest.fixture
    def topic(self) -> str:
        """A name that no other test uses: engines that outlive a test keep its topics."""
        return f"conformance-{uuid4().hex}"

    @pytest.fixture
    async def log(self, make: Make, topic: str) -> AsyncIterator[Transport]:
        """An open transport whose `topic` has four partitions."""
        async with make() as log:
            await log.provision(topic, PARTITIONS)
            yield log


def keyed(key: str | None, *numbers: int) -> list[Record]:
    """Records of one key whose values tell the key and the number."""
    return [Record(f"{key}:{number}".encode(), key) for number in numbers]


def values(records: Sequence[Record]) -> list[str]:
    """The values as text."""
    return [record.value.decode() for record in records]


async def within(what: Awaitable[T], seconds: float = PATIENCE) -> T:
    """The result, or a failure after `seconds`."""
    async with asyncio.timeout(seconds):
        return await what


async def take(reader: Reader, count: int, limit: int = 100) -> list[Record]:
    """Exactly `count` records, read in steps of at most `limit`."""
    found: list[Record] = []
    while len(found) < count:
        found += await within(reader.next(min(limit, count - len(found))))
    return found


async def everything(log: Transport, topic: str, partition: int, after: int | None = None) -> list[Record]:
    """What a partition holds now."""
    bounds = await log.bounds(topic, partition)
    start = bounds.earliest if after is None else after
    reader = log.read(topic, partition, start)
    found: list[Record] = []
    try:
        while (found[-1].position if found else start) < bounds.latest:
            found += await within(reader.next(500))
    finally:
        await reader.aclose()
    return found
