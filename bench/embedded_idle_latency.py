"""embedded_idle_latency: from the producer's commit to the handler's commit, one event at a time, nothing else going on.

Between two events the system is left alone for a few milliseconds, longer than any of its batches, so that every event
finds it asleep. The ceiling makes the same three commits one after another with plain apsw: the event's row in the
outbox, then, timed, its record in the log, and the inbox row, the claim and the handler's row, while the outbox row goes.
"""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from random import Random
from typing import Any

from .bare import BareFile, schema_of
from .embedded import CONSUMER, LOG, PRODUCER, embedded, run, tick, wait_until
from .figures import Figure, Goal
from .rows import EndToEndRows

__all__ = ["measure"]

PAUSE_SECONDS = (0.005, 0.015)
GOALS = {50: Goal(at_most=2.0), 99: Goal(at_most=10.0)}


def measure(folder: Path, events: int = 600) -> list[Figure]:
    """Milliseconds at p50 and at p99."""
    measured = run(latencies(folder, events))
    bare = bare_latencies(folder, events)
    return [
        Figure(
            f"embedded_idle_latency_p{share}",
            percentile(measured, share) * 1e3,
            "ms",
            percentile(bare, share) * 1e3,
            goal,
            {"events": events, "seconds": [round(s, 6) for s in measured], "bare": [round(s, 6) for s in bare]},
            lower_is_better=True,
        )
        for share, goal in GOALS.items()
    ]


async def latencies(folder: Path, events: int) -> list[float]:
    """Seconds of each event, in their order."""
    found: list[float] = []
    random = Random(1)
    async with embedded(folder) as system:
        for n in range(events):
            await asyncio.sleep(random.uniform(*PAUSE_SECONDS))
            durable = asyncio.get_running_loop().create_future()
            system.telemetry.on_handled = lambda at=durable: at.done() or at.set_result(time.perf_counter())
            await system.publish(tick(n))
            began = time.perf_counter()
            found.append(await asyncio.wait_for(durable, 10.0) - began)
        await wait_until(lambda: system.handled() == events, 10.0, "an event was lost")
    return found


def bare_latencies(folder: Path, events: int) -> list[float]:
    """The same rows, one event at a time."""
    rows = EndToEndRows(folder)
    random = Random(1)
    place = folder / "bare"
    place.mkdir()
    found: list[float] = []
    with (
        BareFile(place / "producer.db", schema_of(folder / f"{PRODUCER}.db")) as outbox,
        BareFile(place / "log.db", schema_of(folder / f"{LOG}.db")) as log,
        BareFile(place / "consumer.db", schema_of(folder / f"{CONSUMER}.db")) as consumer,
    ):
        rows.seed(log, consumer)
        for n in range(events):
            time.sleep(random.uniform(*PAUSE_SECONDS))
            _commit(outbox, rows.outbox(n, n + 1)).wait()
            began = time.perf_counter()
            _commit(log, rows.log(n, n + 1)).wait()
            deleted = _commit(outbox, rows.confirmed(n, n + 1))
            _commit(consumer, rows.consumer(n, n + 1)).wait()
            found.append(time.perf_counter() - began)
            deleted.wait()
    return found


def _commit(file: BareFile, work: Any) -> threading.Event:
    durable = threading.Event()
    file.write(work, durable.set)
    return durable


def percentile(seconds: list[float], share: int) -> float:
    """Nearest rank."""
    ordered = sorted(seconds)
    return ordered[max(0, -(-share * len(ordered) // 100) - 1)]
