"""Millstream at the same work: two services in two processes, as `millstream up` composes them, without HTTP.

    python -m bench.peers.ours provision | fill | produce | relay | work

`fill` writes business rows and outbox rows and relays nothing; `produce` is the producing service with its relay, and ends when
everything has left its outbox.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import uvloop
from millstream import Caller, Event, Service, Tx
from millstream.clock import SystemClock
from millstream.delivery.outbox import Origin, Outbox
from millstream.ids import Ids, SystemEntropy
from millstream.ports.store import Session, Store
from millstream.runtime.adapters import AdapterContext, open_store, open_transport
from millstream.runtime.run import SWITCH_SECONDS
from millstream.runtime.runtime import Composition, Runtime
from millstream.runtime.settings import Settings
from millstream.telemetry.instrumentation import Telemetry

from .workload import Task, body, engine, main, produce, topic

PRODUCER, CONSUMER = "producer", "consumer"
RELAYED = "millstream_relayed_total"

producer, consumer = Service(PRODUCER), Service(CONSUMER)


class Tick(Event, topic=topic(), key="key"):
    """The event of the work."""

    key: str
    n: int
    text: str


producer.emits(Tick)


@consumer.on(Tick, name="rows")
async def keep(event: Tick, tx: Tx) -> None:
    """The effect."""
    tx.expect("INSERT INTO effects (key, n) VALUES (?, ?)", event.key, event.n)


@asynccontextmanager
async def running(*services: Service) -> AsyncGenerator[tuple[Runtime, Telemetry]]:
    """The services on their engines, with the settings' defaults."""
    settings, clock = Settings(), SystemClock()
    telemetry = Telemetry.from_environment(
        {
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(settings.telemetry.sample),
            "MILLSTREAM_LOG_LEVEL": "warning",
        }
    )
    with TemporaryDirectory(prefix="millstream-peers-") as folder:
        data = Path(folder)
        context = AdapterContext(data, clock, telemetry, settings.transport.retention)
        composition = Composition(
            open_store=lambda name: open_store(engine("postgresql"), name, data, clock, telemetry),
            transport=open_transport(engine(engine("transport")), context),
            data=data,
            clock=clock,
            instrumentation=telemetry,
            partitions=settings.transport.partitions,
        )
        try:
            async with Runtime(services, composition) as runtime:
                while not runtime.ready:  # noqa: ASYNC110 - a condition of its workers, once a process
                    await asyncio.sleep(0.002)
                yield runtime, telemetry
        finally:
            await telemetry.close()


def publisher(store: Store, telemetry: Telemetry) -> Callable[[Sequence[int]], Awaitable[None]]:
    """What a route does: business rows and their events in one transaction, under a trace that begins with it."""
    clock = SystemClock()
    origin = Origin(f"/{PRODUCER}", Ids(SystemEntropy(), lambda: clock.now_us() // 1000))

    async def publish(numbers: Sequence[int]) -> None:
        caller = Caller("bench", traceparent=telemetry.new_trace())

        async def unit(session: Session) -> None:
            outbox = Outbox(origin)
            tx = Tx(session, outbox, clock.now_us(), caller)
            for n in numbers:
                event = Tick(**body(n))
                tx.expect("INSERT INTO business (key, n) VALUES (?, ?)", event.key, event.n)
                tx.publish(event)
            await outbox.flush(session)

        await store.transact(unit)

    return publish


async def _provision(_task: Task) -> None:
    async with running(producer, consumer):
        pass


async def _fill(task: Task) -> None:
    telemetry = Telemetry.from_environment({"MILLSTREAM_LOG_LEVEL": "warning"})
    async with open_store(engine("postgresql"), PRODUCER, Path(), SystemClock(), telemetry) as store:
        await produce(task, publisher(store, telemetry))
    await telemetry.close()


async def _produce(task: Task) -> None:
    async with running(producer) as (runtime, telemetry):
        store = runtime.bound[PRODUCER].store

        async def relayed() -> None:
            while await store.query("SELECT 1 FROM millstream_outbox LIMIT 1"):  # noqa: ASYNC110 - a condition in the database
                await asyncio.sleep(0.01)

        await produce(task, publisher(store, telemetry), relayed)


async def _relay(_task: Task) -> None:
    async with running(producer):
        await asyncio.Event().wait()


async def _work(_task: Task) -> None:
    async with running(consumer):
        await asyncio.Event().wait()


def _run(role: Callable[[Task], Awaitable[None]]) -> Callable[[Task], None]:
    async def run(task: Task) -> None:
        await role(task)

    def start(task: Task) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        uvloop.run(run(task))

    return start


if __name__ == "__main__":
    roles = {"provision": _provision, "fill": _fill, "produce": _produce, "relay": _relay, "work": _work}
    main({name: _run(role) for name, role in roles.items()})
