"""embedded_end_to_end: events/s from the first producer's transaction to the commit of the last handler's row.

100 producers side by side, one event per transaction, 200 bytes, 1,000 keys → relay → embedded log → inbox → handler.
The ceiling writes the same rows to files of the same schema, in the same numbers of commits: outbox rows in and out,
log records with their counters, inbox rows with their claims, and the handler's rows. Not in it: reading, encoding,
deciding.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from .bare import BareFile, Pipeline, Stage, schema_of
from .embedded import CONSUMER, LOG, PRODUCER, Embedded, embedded, run, tick, wait_until
from .figures import Figure, Goal, median_pair
from .rows import EndToEndRows

__all__ = ["measure"]

PRODUCERS = 100
GOAL = Goal(at_least=30_000, ratio_at_least=0.5)


def measure(folder: Path, events: int = 150_000, runs: int = 3) -> list[Figure]:
    """The median of several runs, each beside its own ceiling."""
    pairs: list[dict[str, Any]] = []
    for number in range(runs):
        place = folder / str(number)
        place.mkdir()
        measured = run(run_once(place, events))
        measured["ceiling"] = ceiling(place, events, measured["commits"])
        pairs.append(measured)
    value, bare = median_pair([(pair["value"], pair["ceiling"]) for pair in pairs])
    return [Figure("embedded_end_to_end", value, "events/s", bare, GOAL, {"events": events, "runs": pairs})]


async def run_once(folder: Path, events: int, seconds: float = 60.0) -> dict[str, Any]:
    """One run of the product: events/s, CPU per event, commits per file.

    Raises:
        AssertionError: an event was lost or doubled.
    """
    async with embedded(folder) as system:
        before = system.commits()
        began, cpu, loop = time.perf_counter(), time.process_time(), time.thread_time()
        await produce(system, events)
        produced = time.perf_counter() - began
        await wait_until(lambda: system.handled() >= events, seconds, f"{system.handled()} of {events} were handled")
        took, used, looped = time.perf_counter() - began, time.process_time() - cpu, time.thread_time() - loop
        commits = {file: count - before.get(file, 0) for file, count in system.commits().items()}
        await check(system, events)
    return {
        "value": events / took, "seconds": took, "produced_s": produced, "cpu_us_per_event": used / events * 1e6,
        "loop_us_per_event": looped / events * 1e6,
        "commits": commits,
    }  # fmt: skip


async def produce(system: Embedded, events: int, first: int = 0) -> None:
    """Publish events `first` to `first + events` from all producers at once."""
    numbers = iter(range(first, first + events))

    async def producer() -> None:
        for n in numbers:
            await system.publish(tick(n))

    async with asyncio.TaskGroup() as group:
        for _ in range(PRODUCERS):
            group.create_task(producer())


async def check(system: Embedded, events: int) -> None:
    """Every event once, in the order of its key."""
    rows = await system.store(CONSUMER).query("SELECT COUNT(*), COUNT(DISTINCT n) FROM handled")
    assert rows == [(events, events)], f"{events} events published, (handled, different ones) is {rows}"


def ceiling(folder: Path, events: int, commits: dict[str, int]) -> float:
    """Events/s of plain apsw with the rows that a run left in `folder`."""
    rows = EndToEndRows(folder)
    assert len(rows.records) == events, f"{len(rows.records)} records for {events} events"
    place = folder / "bare"
    place.mkdir()
    with (
        BareFile(place / "producer.db", schema_of(folder / f"{PRODUCER}.db")) as outbox,
        BareFile(place / "log.db", schema_of(folder / f"{LOG}.db")) as log,
        BareFile(place / "consumer.db", schema_of(folder / f"{CONSUMER}.db")) as consumer,
    ):
        rows.seed(log, consumer)
        produced = Stage(outbox, events, events // commits[PRODUCER], rows.outbox)
        logged = Stage(log, events, events // commits[LOG], rows.log, after=produced)
        handled = Stage(consumer, events, events // commits[CONSUMER], rows.consumer, after=logged)
        produced.trail, produced.behind = rows.confirmed, logged
        pipeline = Pipeline((produced, logged, handled))
        began = time.perf_counter()
        pipeline.run()
        return events / (time.perf_counter() - began)
