"""Two services on the embedded engines, composed as `millstream up` composes them: what several benchmarks drive.

`producer` publishes one event per transaction, as a route does; `consumer` writes one row for each in its handler.
Telemetry is the real one with its default sampling; every event carries a trace that began with it.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import uvloop
from millstream import Caller, Event, Service, Tx
from millstream.clock import SystemClock
from millstream.delivery.outbox import Outbox
from millstream.message import event_type
from millstream.ports.instrumentation import Labels
from millstream.ports.store import Session, Store
from millstream.runtime.run import SWITCH_SECONDS
from millstream.runtime.runtime import Composition, Runtime
from millstream.runtime.settings import Settings
from millstream.stores.sqlite import SqliteStore
from millstream.telemetry.instrumentation import Telemetry
from millstream.transports.log import LogTransport

__all__ = ["CONSUMER", "LOG", "PRODUCER", "Embedded", "Tick", "embedded", "run", "services", "wait_until"]

R = TypeVar("R")
PRODUCER, CONSUMER, LOG = "producer", "consumer", "log"
"""The names of the two services and of the log; their files are called so too."""
EVENT_BYTES = 200
KEYS = 1_000
HANDLED = "millstream_messages_handled_total"


class Tick(Event, topic="ticks", key="key"):
    """An event of `EVENT_BYTES` bytes of JSON."""

    key: str
    n: int
    text: str


_keys = [f"key-{n:04d}" for n in range(KEYS)]
_bare = len(event_type(Tick).encode(Tick(_keys[0], 0, "")))
_texts = {digits: "x" * (EVENT_BYTES - _bare + 1 - digits) for digits in range(1, 12)}


def tick(n: int) -> Tick:
    """The n-th event, on one of `KEYS` keys."""
    return Tick(_keys[n % KEYS], n, _texts[len(str(n))])


def services() -> tuple[Service, Service]:
    """The declarations."""
    producer, consumer = Service(PRODUCER), Service(CONSUMER)
    producer.emits(Tick)

    @consumer.on(Tick, name="rows")
    async def keep(event: Tick, tx: Tx) -> None:
        await tx.execute("INSERT INTO handled (key, n, text) VALUES (?, ?, ?)", event.key, event.n, event.text)

    return producer, consumer


class WatchedTelemetry(Telemetry):
    """The real telemetry; tells when the handler of a message has committed."""

    on_handled: Callable[[], object] | None = None

    def count(self, metric: str, labels: Labels, amount: int = 1) -> None:
        """See the port."""
        super().count(metric, labels, amount)
        if self.on_handled is not None and metric == HANDLED:
            self.on_handled()


class Embedded:
    """The running pair."""

    def __init__(self, runtime: Runtime, telemetry: WatchedTelemetry) -> None:
        self.runtime = runtime
        self.telemetry = telemetry
        self._origin = runtime.bound[PRODUCER].origin
        self._clock = runtime.composition.clock

    def store(self, service: str) -> Store:
        """The store of a service."""
        return self.runtime.bound[service].store

    async def publish(self, event: Event) -> None:
        """One event in a transaction of its own; returns once it is durable."""
        caller = Caller("bench", traceparent=self.telemetry.new_trace())

        async def unit(session: Session) -> None:
            outbox = Outbox(self._origin)
            Tx(session, outbox, self._clock.now_us(), caller).publish(event)
            await outbox.flush(session)

        await self.store(PRODUCER).transact(unit)

    def handled(self) -> int:
        """Messages whose handler committed, by the product's own counter."""
        return sum(self.telemetry.metrics.counters.get(HANDLED, {}).values())

    def commits(self) -> dict[str, int]:
        """Commits so far of each file, by the product's own counters."""
        counted = self.telemetry.metrics.counters.get("millstream_store_commits_total", {})
        return {dict(labels)["store"]: count for labels, count in counted.items()}


@asynccontextmanager
async def embedded(
    folder: Path, declare: Callable[[], tuple[Service, Service]] = services, **composition: Any
) -> AsyncGenerator[Embedded]:
    """Both services on files in `folder`. `composition`: fields of `Composition` that shall differ."""
    clock, settings = SystemClock(), Settings()
    environment = {
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str(settings.telemetry.sample),
        "MILLSTREAM_LOG_LEVEL": settings.telemetry.log_level,
    }
    telemetry = WatchedTelemetry.from_environment(environment)
    composed = {
        "open_store": lambda name: SqliteStore(folder / f"{name}.db", clock=clock, instrumentation=telemetry),
        "transport": LogTransport(folder / f"{LOG}.db", clock=clock, instrumentation=telemetry),
        "data": folder,
        "clock": clock,
        "instrumentation": telemetry,
        "partitions": settings.transport.partitions,
        **composition,
    }
    try:
        async with Runtime(declare(), Composition(**composed)) as runtime:
            await runtime.bound[CONSUMER].store.script(
                "CREATE TABLE IF NOT EXISTS handled (id INTEGER PRIMARY KEY, key TEXT, n INTEGER, text TEXT)"
            )
            await wait_until(lambda: runtime.ready, 10.0, "the workers did not start")
            gc.collect()
            gc.freeze()
            yield Embedded(runtime, telemetry)
    finally:
        gc.unfreeze()
        await telemetry.close()


async def wait_until(condition: Callable[[], bool], seconds: float, otherwise: str) -> None:
    """Return once the condition holds; looks every 2 ms.

    Raises:
        TimeoutError: it did not in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not condition():
        if loop.time() > deadline:
            raise TimeoutError(otherwise)
        await asyncio.sleep(0.002)


def run(main: Coroutine[Any, Any, R]) -> R:
    """Run on the loop and with the thread switching of `millstream up`."""
    sys.setswitchinterval(SWITCH_SECONDS)
    return uvloop.run(main)
