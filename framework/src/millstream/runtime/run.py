"""`millstream up`: everything of one process, from settings to exit code, in the order that start and stop need."""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from socket import socket

import uvloop

from ..clock import SystemClock
from ..delivery.consumption import Limits
from ..delivery.supervision import Supervised
from ..errors import Misconfigured
from ..http.admin_file import AdminFile, remove_admin_file, write_admin_file
from ..ids import SystemEntropy
from ..ports.store import Store
from ..ports.transport import Transport
from ..service.service import Service
from ..telemetry.instrumentation import Telemetry
from .adapters import AdapterContext, open_intake, open_store, open_transport
from .edge import Probes, authenticator, build_edge, caller_of
from .gauges import GaugeSampler
from .network import Network
from .process import Server, Signals, bind, fetch, stop_with_supervisor
from .runtime import Composition, Runtime
from .services import load_services
from .settings import Settings

__all__ = ["Started", "run_up", "telemetry_variables"]

Started = Callable[[str, float], None]
"""Called once ready: the URL, and the seconds since the call."""

SWITCH_SECONDS = 0.0005
"""How long a thread keeps the interpreter. The default of 5 ms is what a finished commit would wait for the loop."""
DRAIN_SHARE = 0.6
"""Share that running requests and handlers get of the time up to the watchdog; the rest is for relays, claims and
engines."""


def run_up(settings: Settings, on_ready: Started | None = None) -> int:
    """Run the services in this process until SIGTERM or SIGINT; returns the exit code. The only `run` there is.

    Raises:
        Misconfigured: every problem found before anything was started.
    """
    everything = load_services(settings.app)
    only = settings.only
    unknown = sorted(set(only) - {s.name for s in everything})
    if unknown:
        known = ", ".join(s.name for s in everything)
        raise Misconfigured(f"no service is called {', '.join(unknown)}; there are {known}")
    services = [s for s in everything if s.name in only] if only else everything
    sys.setswitchinterval(SWITCH_SECONDS)
    return uvloop.run(_Up(settings, services, Network(settings, everything, services), on_ready).run())


class _Up:
    def __init__(
        self, settings: Settings, services: Sequence[Service], network: Network, on_ready: Started | None
    ) -> None:
        self.settings = settings
        self.services = services
        self.network = network
        self.on_ready = on_ready
        self.clock = SystemClock()

    async def run(self) -> int:
        began = self.clock.monotonic()
        settings = self.settings
        signals = Signals(settings.http.grace)  # before a slow start
        if settings.supervised:
            stop_with_supervisor()
        listener = bind(settings.http.host, settings.http.port, shared=settings.supervised)
        host, port = listener.getsockname()[:2]
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        telemetry = Telemetry.from_environment(telemetry_variables(settings))
        telemetry.adopt_logging()
        entropy = SystemEntropy()
        settings.data.mkdir(parents=True, exist_ok=True)
        adapters = AdapterContext(settings.data, self.clock, telemetry, settings.transport.retention)
        composition = Composition(
            open_store=lambda name: open_store(settings.store.url, name, settings.data, self.clock, telemetry),
            transport=open_transport(settings.transport.url, adapters),
            data=settings.data,
            clock=self.clock,
            entropy=entropy,
            instrumentation=telemetry,
            limits=_limits(settings),
            partitions=settings.transport.partitions,
            start=settings.start,
            settings=settings.service,
            http_url=settings.http.public_url or url,
            remote=self.network.channel(self.clock, entropy, telemetry),
            open_intake=lambda name: open_intake(_queue_of(settings, name), adapters),
            without_intakes=frozenset(
                taken.name
                for service in self.services
                for taken in service.intakes
                if settings.intake(taken.name) == "none"
            ),
        )
        try:
            async with self.network, Runtime(self.services, composition) as runtime:
                await self._warn_if_weak(runtime, telemetry)
                await self._serve(runtime, signals, listener, url, telemetry, began)
        finally:
            for file in self._admin_files():
                remove_admin_file(file, os.getpid())
            await telemetry.close()
        return 0

    async def _serve(
        self, runtime: Runtime, signals: Signals, listener: socket, url: str, telemetry: Telemetry, began: float
    ) -> None:
        settings, network = self.settings, self.network
        forwarding = network.forwarding
        probes = Probes(runtime, None if forwarding is None else forwarding.ready)
        token = str(settings.http.admin_token) or runtime.composition.entropy.token(24).hex()
        app = build_edge(
            runtime, settings, probes, telemetry.exposition, token, fetch, signals.received, forwarding=forwarding
        )
        calls = await network.serve(runtime, caller_of(authenticator(runtime, settings, fetch)))
        if calls is not None:
            runtime.pacer.busy = lambda: app.admission.in_flight > 0 or calls.in_flight > 0
        drain = (signals.watchdog.seconds - settings.http.drain_delay) * DRAIN_SHARE
        server = Server(app, listener, drain)
        sampler = Supervised(
            GaugeSampler(list(runtime.bound.values()), runtime.composition.transport, self.clock, telemetry),
            "gauges",
            clock=self.clock,
            entropy=runtime.composition.entropy,
            instrumentation=telemetry,
            labels=(("service", "millstream"),),
        )
        async with asyncio.TaskGroup() as group:
            group.create_task(server.run())
            group.create_task(sampler.run())
            while not (server.started and runtime.ready):  # two conditions of other owners, once a process
                await self.clock.sleep(0.002)
            names = tuple(runtime.bound)
            write_admin_file(settings.process_file, AdminFile(url, token, os.getpid(), names))
            if settings.process and settings.http.edge:
                write_admin_file(settings.admin_file, AdminFile(url, token, os.getpid(), names))
            probes.serving = True
            # What start-up made stays for good: the collector need not walk it again and again.
            gc.collect()
            gc.freeze()
            if self.on_ready is not None:
                self.on_ready(url, self.clock.monotonic() - began)
            await signals.received.wait()
            telemetry.log("info", "draining", grace_s=settings.http.grace)
            probes.serving = False
            app.state.draining = True
            if calls is not None:
                await calls.drain()
            await self.clock.sleep(settings.http.drain_delay)
            sampler.stop()
            # Requests under way may still publish: the relays stop behind them.
            group.create_task(runtime.stop_consuming(drain))
            server.close()
            if calls is not None:
                group.create_task(calls.close(drain))
        await runtime.stop(0)
        signals.watchdog.cancel()

    def _admin_files(self) -> set[Path]:
        settings = self.settings
        return {settings.process_file, *((settings.admin_file,) if settings.http.edge else ())}

    async def _warn_if_weak(self, runtime: Runtime, telemetry: Telemetry) -> None:
        engines: list[tuple[str, Store | Transport]] = [("transport", runtime.composition.transport)]
        engines += [(f"store of {name}", bound.store) for name, bound in runtime.bound.items()]
        for name, engine in engines:
            durability = await engine.durability()
            if not (durability.process_crash and durability.power_loss):
                telemetry.log("warning", "engine_too_weak", engine=name, why=durability.why_not)


def _queue_of(settings: Settings, intake: str) -> str:
    queue = settings.intake(intake)
    if queue is None:
        raise Misconfigured(
            f'intake {intake!r} has no queue: set [intakes] {intake} = "rabbitmq://…?queue=NAME", or "none" to leave it out'
        )
    return queue


def _limits(settings: Settings) -> Limits:
    c = settings.consumption
    return Limits(
        batch_messages=c.batch_size,
        batch_seconds=c.batch_time,
        lease_seconds=c.lease,
        inbox_retention_seconds=c.inbox_retention,
        parked_limit=c.max_parked,
    )


def telemetry_variables(settings: Settings) -> dict[str, str]:
    """The process's environment, below it what the settings say."""
    return {
        "MILLSTREAM_LOG_LEVEL": settings.telemetry.log_level,
        "MILLSTREAM_LOG_FORMAT": settings.telemetry.log_format,
        "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": str(settings.telemetry.sample),
        **os.environ,
    }
