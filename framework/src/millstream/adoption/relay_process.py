"""`millstream relay`: forwards an application's outbox to a log, until a signal stops it.

It runs the kernel's own relay: oldest rows first, confirmed before deleted, so that killing it at any moment repeats rows
and loses none. It waits out an engine that is away, with growing pauses. Two relays at once are safe, only wasteful.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from socket import socket

import uvloop
from starlette.applications import Starlette

from ..clock import Clock, SystemClock
from ..delivery.relay import Relay
from ..delivery.supervision import Supervised
from ..errors import Misconfigured, StoreUnavailable
from ..http.documents import Document, document
from ..ids import SystemEntropy
from ..message import decode_message, parse_time
from ..ports.instrumentation import Instrumentation
from ..ports.store import Store
from ..ports.transport import Transport
from ..ports.wake import Wake
from ..runtime.adapters import AdapterContext, open_transport
from ..runtime.process import Server, Signals, bind
from ..runtime.settings import Settings
from ..telemetry.instrumentation import Telemetry
from .forgetting import InboxPurge
from .relay_store import Source, source_of

__all__ = ["RelayOptions", "run_relay"]

SAMPLE_SECONDS = 5.0


@dataclass(frozen=True)
class RelayOptions:
    """What a relay needs beside the settings. topics: to be provisioned at the start, if they do not exist yet."""

    topics: Sequence[str] = ()
    schema: str | None = None
    create_tables: bool = False


def run_relay(settings: Settings, options: RelayOptions, on_ready: Callable[[str], None]) -> int:
    """Relay until SIGTERM or SIGINT; the exit code. `on_ready` gets the address of probes and metrics.

    Raises:
        Misconfigured: what a person has to change before it can start.
        Transient: the database or the log is away at the start: whoever supervises the process starts it again.
    """
    return uvloop.run(_Process(settings, options, on_ready).run())


class _Process:
    def __init__(self, settings: Settings, options: RelayOptions, on_ready: Callable[[str], None]) -> None:
        self._settings = settings
        self._options = options
        self._on_ready = on_ready
        self._serving = False

    async def run(self) -> int:
        settings, options, clock = self._settings, self._options, SystemClock()
        signals = Signals(settings.http.grace)  # before a slow start
        listener = bind(settings.http.host, settings.http.port)
        telemetry = Telemetry.from_environment(_variables(settings))
        telemetry.adopt_logging()
        try:
            source, transport = self._engines(
                AdapterContext(settings.data, clock, telemetry, settings.transport.retention)
            )
            settings.data.mkdir(parents=True, exist_ok=True)
            async with source.opened(create=options.create_tables) as (store, shared), transport:
                await self._prepare(store, transport, telemetry)
                await self._serve(source.name, store, shared, transport, signals, listener, telemetry, clock)
        finally:
            listener.close()
            await telemetry.close()
        return 0

    def _engines(self, context: AdapterContext) -> tuple[Source, Transport]:
        """Both ends, not opened yet. Raises `Misconfigured` with what is wrong with either."""
        settings, problems = self._settings, list[str]()
        source = transport = None
        try:
            source = source_of(
                settings.store.url,
                schema=self._options.schema,
                clock=context.clock,
                instrumentation=context.instrumentation,
            )
        except Misconfigured as error:
            problems += error.problems
        try:
            transport = open_transport(settings.transport.url, context)
        except Misconfigured as error:
            problems += error.problems
        if source is None or transport is None:
            raise Misconfigured(problems)
        return source, transport

    async def _prepare(self, store: Store, transport: Transport, telemetry: Telemetry) -> None:
        for topic in self._options.topics:
            if await transport.partitions(topic) is None:
                await transport.provision(topic, self._settings.transport.partitions)
        for what, engine in (("store", store), ("transport", transport)):
            durability = await engine.durability()
            if not (durability.process_crash and durability.power_loss):
                telemetry.log("warning", "engine_too_weak", engine=what, why=durability.why_not)

    async def _serve(
        self,
        name: str,
        store: Store,
        shared: Store,
        transport: Transport,
        signals: Signals,
        listener: socket,
        telemetry: Telemetry,
        clock: Clock,
    ) -> None:
        entropy, labels = SystemEntropy(), (("service", name),)
        relay = Relay(shared, transport, clock=clock, entropy=entropy, instrumentation=telemetry, service=name)
        purge = InboxPurge(
            store, clock=clock, instrumentation=telemetry, retention=self._settings.consumption.inbox_retention
        )
        parts = [
            Supervised(part, task, clock=clock, entropy=entropy, instrumentation=telemetry, labels=labels)
            for part, task in ((relay, "relay"), (purge, "inbox"), (_Gauges(store, name, clock, telemetry), "gauges"))
        ]
        server = Server(self._application(telemetry), listener, signals.watchdog.seconds / 2)
        host, port = listener.getsockname()[:2]
        async with asyncio.TaskGroup() as group:
            group.create_task(server.run())
            for part in parts:
                group.create_task(part.run())
            while not server.started:  # a condition of another owner, once a process
                await clock.sleep(0.002)
            self._serving = True
            self._on_ready(f"http://{f'[{host}]' if ':' in host else host}:{port}")
            await signals.received.wait()
            telemetry.log("info", "draining", grace_s=self._settings.http.grace)
            self._serving = False
            for part in parts:
                part.stop()
            server.close()
        signals.watchdog.cancel()

    def _application(self, telemetry: Telemetry) -> Starlette:
        def ready() -> Document:
            return Document(b'{"status":"ready"}') if self._serving else Document(b'{"status":"not ready"}', status=503)

        def metrics() -> Document:
            body, content_type = telemetry.exposition()
            return Document(body, content_type)

        return Starlette(
            routes=[
                document("/live", lambda: Document(b'{"status":"live"}')),
                document("/ready", ready),
                document("/metrics", metrics),
            ]
        )


class _Gauges:
    """What waits in the outbox, looked at every few seconds."""

    def __init__(self, store: Store, name: str, clock: Clock, instrumentation: Instrumentation) -> None:
        self._store = store
        self._clock = clock
        self._instrumentation = instrumentation
        self._wake = Wake(clock)
        self._stopping = False
        self._values = dict.fromkeys(
            ("millstream_outbox_rows", "millstream_held_keys", "millstream_outbox_oldest_age_seconds"), 0.0
        )
        for metric in self._values:
            instrumentation.gauge(metric, (("service", name),), lambda metric=metric: self._values[metric])

    async def run(self) -> None:
        while not self._stopping:
            try:
                await self._sample()
            except StoreUnavailable as error:
                self._instrumentation.log("warning", "gauges_stale", error=str(error))
            await self._wake.wait(SAMPLE_SECONDS)

    def stop(self) -> None:
        self._stopping = True
        self._wake.set()

    async def _sample(self) -> None:
        scan, values = self._store.scan, self._values
        values["millstream_outbox_rows"] = (await scan("SELECT COUNT(*) FROM millstream_outbox"))[0][0]
        values["millstream_held_keys"] = (await scan("SELECT COUNT(*) FROM millstream_held_keys"))[0][0]
        oldest = await scan("SELECT value FROM millstream_outbox ORDER BY id LIMIT 1")
        age = self._clock.now_us() - parse_time(decode_message(oldest[0][0]).time) if oldest else 0
        values["millstream_outbox_oldest_age_seconds"] = max(0.0, age / 1e6)


def _variables(settings: Settings) -> dict[str, str]:
    """The process's environment, below it what the settings say."""
    return {
        "MILLSTREAM_LOG_LEVEL": settings.telemetry.log_level,
        "MILLSTREAM_LOG_FORMAT": settings.telemetry.log_format,
        **os.environ,
    }
