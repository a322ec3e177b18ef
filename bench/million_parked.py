"""million_parked_memory_mb: how much resident memory grows while a million messages are parked.

The messages come through the log; of each of 100,000 keys the first one fails and is due again in an hour, and the
others queue up behind it, in the store. Before and after, the system answers: an event of a key that is not parked is
published and handled. What is read from the log but not parked stays in the log and costs no memory either.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import msgspec
from millstream import Retry, Service, Tx
from millstream.delivery.consumption import Limits
from millstream.ids import Ids
from millstream.message import Message, Record, encode_message, event_type, format_time, partition_of

from .embedded import CONSUMER, PRODUCER, Embedded, Tick, embedded, run, tick, wait_until
from .figures import Figure, Goal

__all__ = ["measure"]

WARM_UP = 50_000
"""Parked before the first look at memory: by then every cache has its size."""
CHUNK = 4_000
STUCK = "stuck"
PARKED = "millstream_messages_parked_total"
PATIENCE_SECONDS = 240.0


def measure(folder: Path, messages: int = 1_000_000, keys: int = 100_000) -> list[Figure]:
    """Megabytes of growth."""
    details = run(park(folder, messages, keys))
    growth = details["after_mb"] - details["before_mb"]
    return [Figure("million_parked_memory_mb", growth, "MB", None, Goal(at_most=50.0), details, lower_is_better=True)]


def services() -> tuple[Service, Service]:
    """A consumer that fails for some keys, for now."""
    producer, consumer = Service(PRODUCER), Service(CONSUMER)
    producer.emits(Tick)

    @consumer.on(Tick, name="rows", retry=Retry(first="1h", cap="1h", jitter=False))
    async def keep(event: Tick, tx: Tx) -> None:
        if event.text == STUCK:
            raise RuntimeError("not now")
        await tx.execute("INSERT INTO handled (key, n, text) VALUES (?, ?, ?)", event.key, event.n, event.text)

    return producer, consumer


async def park(folder: Path, messages: int, keys: int) -> dict[str, Any]:
    """Park them all; what memory and the answering were before and after.

    Raises:
        AssertionError: not all of them are parked. TimeoutError: it took too long.
    """
    limits = Limits(parked_limit=messages)
    async with embedded(folder, services, limits=limits) as system:
        await _park(system, 0, WARM_UP, keys)
        before = {"before_mb": _memory_mb(), "answer_before_ms": await _answer_ms(system, 1)}
        began = time.perf_counter()
        await _park(system, WARM_UP, messages, keys)
        took = time.perf_counter() - began
        after = {"after_mb": _memory_mb(), "answer_after_ms": await _answer_ms(system, 2)}
        rows = await system.store(CONSUMER).query(
            "SELECT (SELECT COUNT(*) FROM millstream_parked), (SELECT COUNT(*) FROM millstream_lanes)"
        )
        assert rows == [(messages, min(keys, messages))], f"(parked, lanes) is {rows}"
    return {"messages": messages, "lanes": keys, "parked_per_s": (messages - WARM_UP) / took, **before, **after}


async def _park(system: Embedded, start: int, end: int, keys: int) -> None:
    """Put stuck messages on the log, chunk by chunk, and wait until they are parked."""
    ids = Ids()
    log = system.runtime.composition.transport
    declared = event_type(Tick)
    partitions = await log.partitions(declared.topic) or 1
    for first in range(start, end, CHUNK):
        last = min(first + CHUNK, end)
        places: list[list[Record]] = [[] for _ in range(partitions)]
        now = format_time(time.time_ns() // 1000)
        for n in range(first, last):
            event = Tick(f"{STUCK}-{n % keys:06d}", n, STUCK)
            message = Message(
                ids.new(), f"/{PRODUCER}", declared.name, now, msgspec.Raw(declared.encode(event)), subject=event.key
            )
            places[partition_of(event.key, partitions)].append(Record(encode_message(message), event.key))
        async with asyncio.TaskGroup() as group:
            for partition, records in enumerate(places):
                if records:
                    group.create_task(log.publish(declared.topic, partition, records))
        # A chunk behind is enough to keep every partition busy, and bounds what waits.
        await wait_until(lambda at=first: _parked(system) >= at, PATIENCE_SECONDS, "messages are not parked in time")
    await wait_until(lambda: _parked(system) >= end, PATIENCE_SECONDS, "messages are not parked in time")


async def _answer_ms(system: Embedded, n: int) -> float:
    """Milliseconds from publishing an event that is not stuck to its handler's commit."""
    handled = system.handled()
    began = time.perf_counter()
    await system.publish(tick(n))
    await wait_until(lambda: system.handled() > handled, 10.0, "the system does not answer any more")
    return (time.perf_counter() - began) * 1e3


def _parked(system: Embedded) -> int:
    return sum(system.telemetry.metrics.counters.get(PARKED, {}).values())


def _memory_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
