"""`millstream up --split`: each service as its own process, supervised; the same system behind the same port.

Start: the log (a NATS server of its own where none is named), one process of each service side by side, then the
further workers. Ready is when all of them are. Stop: the edge first, so that nothing new comes in; then callers before
those they call; the log last. Each stage is bounded, and so is the whole (`http.grace`).

A process that ends is started anew with growing pauses, on the same addresses; the others keep working, and calls to it
wait or are tried again (`grpc/channel.py`). What this process holds for the others ends with it: their standard input
closes and they stop, so that kill -9 of the supervisor leaves nobody behind.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from socket import socket
from typing import Self

import msgspec
import uvloop

from ..clock import SystemClock
from ..errors import Misconfigured
from ..ids import SystemEntropy
from ..service.service import Service
from ..telemetry.instrumentation import Telemetry
from .adapters import AdapterContext, open_store, open_transport
from .child import Child, Failed, Plan
from .own_nats import OwnNats
from .process import Signals, bind
from .run import telemetry_variables
from .services import load_services
from .settings import Settings
from .stages import edge_of, stages, variables

__all__ = ["run_split"]

Announce = Callable[[Settings, str, float], None]
"""Called once ready: the settings with the log that is used, the URL, and the seconds since the call."""

ENGINE_SECONDS = 5.0
"""What the log's own server has to stop."""
LOCK_SECONDS = 45.0
"""How long processes of a supervisor that was killed may take to stop before another one starts on their data."""
LOCAL_LOGS = ("log", "memory")
"""Transports of one process."""


def run_split(settings: Settings, config: Path | None, announce: Announce) -> int:
    """Run the services as processes until SIGTERM or SIGINT; returns the exit code.

    Raises:
        Misconfigured: every problem found before anything was started.
    """
    services = load_services(settings.app)
    return uvloop.run(_Supervisor(settings, config, services, announce).run())


class _Supervisor:
    def __init__(
        self, settings: Settings, config: Path | None, services: Sequence[Service], announce: Announce
    ) -> None:
        self._settings = settings
        self._config = config
        self._services = services
        self._announce = announce
        self._edge = edge_of(settings, services)
        self._clock = SystemClock()
        self._entropy = SystemEntropy()
        self._own_log = settings.transport.url.partition(":")[0] in LOCAL_LOGS
        self._held: list[socket] = []
        self._children: dict[str, list[Child]] = {}

    async def run(self) -> int:
        settings = self._settings
        began = self._clock.monotonic()
        signals = Signals(settings.http.grace)
        telemetry = Telemetry.from_environment(telemetry_variables(settings))
        telemetry.adopt_logging()
        self._telemetry = telemetry
        try:
            self._check_engines()
            url, port = self._take_port()
            with _DataLock(settings.processes) as lock:
                await self._wait_for(lock)
                for left in settings.processes.glob("*.json"):
                    left.unlink()  # of processes that were killed
                return await self._supervise(signals, lock, url, port, began)
        finally:
            for held in self._held:
                held.close()
            signals.watchdog.cancel()
            await telemetry.close()

    async def _supervise(self, signals: Signals, lock: _DataLock, url: str, port: int, began: float) -> int:
        failed: list[Failed] = []
        try:
            async with AsyncExitStack() as stack:
                group = await stack.enter_async_context(asyncio.TaskGroup())
                settings, nats = self._settings, None
                if self._own_log:
                    settings, nats = await self._start_log(group, lock)
                plans = self._plans(settings, lock, url, port)
                try:
                    ready = group.create_task(self._start(group, plans))
                    stopping = group.create_task(signals.received.wait())
                    await asyncio.wait((ready, stopping), return_when=asyncio.FIRST_COMPLETED)
                    if not stopping.done():
                        self._announce(settings, url, self._clock.monotonic() - began)
                        await stopping
                    self._telemetry.log("info", "draining", grace_s=settings.http.grace)
                    ready.cancel()
                finally:
                    await self._stop()
                    if nats is not None:
                        await nats.stop(ENGINE_SECONDS)
        except* Failed as group_of_failures:
            failed = _leaves(group_of_failures)
        for failure in failed[:1]:
            self._telemetry.log("error", "process_failed_to_start", process=failure.name, code=failure.code)
            return failure.code if failure.code > 0 else 1
        codes = [child.code for children in self._children.values() for child in children]
        return 0 if all(code in (0, None) for code in codes) else 1

    # -- before anything starts ---------------------------------------------------------------------------------------

    def _check_engines(self) -> None:
        """Several processes need engines that several processes can use."""
        settings = self._settings
        problems: list[str] = []
        adapters = AdapterContext(settings.data, self._clock, self._telemetry)
        if not self._own_log:
            transport = open_transport(settings.transport.url, adapters)
            if not transport.capabilities.several_processes:
                problems.append(f"transport.url = {transport.capabilities.name}: is for one process; name another log")
        unknown = sorted({*settings.split.workers_of} - {service.name for service in self._services})
        problems += [f"split.workers_of.{name}: no service has this name" for name in unknown]
        for service in self._services:
            if self._workers(service.name) > 1:
                store = open_store(settings.store.url, service.name, settings.data, self._clock, self._telemetry)
                if not store.capabilities.several_processes:
                    problems.append(
                        f"{self._workers(service.name)} workers of {service.name} cannot share a store on "
                        f"{store.capabilities.name}: use --store postgresql://…, or one worker"
                    )
                    break
        if problems:
            raise Misconfigured(problems)

    def _take_port(self) -> tuple[str, int]:
        """The edge's port: checked to be free, then held without listening, so that nobody else gets it between two
        lives of a process."""
        host = self._settings.http.host
        with bind(host, self._settings.http.port) as probe:
            port = int(probe.getsockname()[1])
        self._held.append(bind(host, port, shared=True))
        return f"http://{f'[{host}]' if ':' in host else host}:{port}", port

    async def _wait_for(self, lock: _DataLock) -> None:
        until = self._clock.monotonic() + LOCK_SECONDS
        while not lock.take():
            # Of a supervisor that was killed only its processes are left, and they are about to stop.
            if lock.holder_lives() or self._clock.monotonic() > until:
                raise Misconfigured(
                    f"another system runs on {self._settings.data}/: stop it, or choose another folder with --data"
                )
            await self._clock.sleep(0.05)

    # -- starting -----------------------------------------------------------------------------------------------------

    async def _start_log(self, group: asyncio.TaskGroup, lock: _DataLock) -> tuple[Settings, Child]:
        server = OwnNats(self._settings.data, self._entropy)
        child = self._child(server.prepare((lock.fd,)))
        group.create_task(child.run())
        await server.wait_until_ready(self._clock)
        child.ready.set()
        log = msgspec.structs.replace(self._settings.transport, url=server.url)
        return msgspec.structs.replace(self._settings, transport=log), child

    def _plans(self, settings: Settings, lock: _DataLock, url: str, port: int) -> dict[str, list[Plan]]:
        """How to start each process, by service."""
        addresses: dict[str, list[str]] = {}
        for service in self._services:
            if service.methods:
                addresses[service.name] = [self._hold_address() for _ in range(self._workers(service.name))]
        token = self._write_token()
        plans: dict[str, list[Plan]] = {}
        for service in self._services:
            others = {name: ",".join(workers) for name, workers in addresses.items() if name != service.name}
            edge = service.name == self._edge
            for number in range(self._workers(service.name)):
                own = addresses[service.name][number] if service.name in addresses else ""
                name = f"{service.name}-{number}"
                said: dict[str, object] = {
                    "app": settings.app, "only": service.name, "data": settings.data, "start": settings.start,
                    "process": name, "supervised": "true",
                    "store.url": settings.store.url, "transport.url": settings.transport.url,
                    "transport.partitions": settings.transport.partitions,
                    "http.host": settings.http.host if edge else "127.0.0.1", "http.port": port if edge else 0,
                    "http.edge": "true" if edge else "false", "http.public_url": url,
                    "http.admin_token": f"file:{token}", "http.grace": self._stage_seconds(),
                    "grpc.listen": own, **{f"grpc.services.{other}": at for other, at in others.items()},
                }  # fmt: skip
                environment = {**os.environ, **variables(said)}
                if self._config is not None:
                    environment["MILLSTREAM_CONFIG"] = str(self._config)
                command = (sys.executable, "-m", "millstream", "run", service.name, "--name", name, "--json")
                plans.setdefault(service.name, []).append(Plan(name, command, environment, (lock.fd,)))
        return plans

    async def _start(self, group: asyncio.TaskGroup, plans: dict[str, list[Plan]]) -> None:
        """One process of each service, then the further ones: what a first start makes, only one process makes."""
        for first in (True, False):
            started: list[Child] = []
            for service, several in plans.items():
                for plan in several[:1] if first else several[1:]:
                    child = self._child(plan)
                    self._children.setdefault(service, []).append(child)
                    started.append(child)
                    group.create_task(child.run())
            for child in started:
                await child.ready.wait()

    def _child(self, plan: Plan) -> Child:
        return Child(plan, self._clock, self._entropy, self._telemetry)

    def _workers(self, service: str) -> int:
        split = self._settings.split
        return split.workers_of.get(service, split.workers)

    def _hold_address(self) -> str:
        held = bind("127.0.0.1", 0, shared=True)
        self._held.append(held)
        return f"127.0.0.1:{held.getsockname()[1]}"

    def _write_token(self) -> Path:
        path = (self._settings.processes / "admin.token").absolute()
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(self._entropy.token(24).hex())
        return path

    # -- stopping -----------------------------------------------------------------------------------------------------

    def _stages(self) -> list[list[str]]:
        return stages(self._services, self._edge)

    def _stage_seconds(self) -> float:
        """What each stage has, so that all of them and the log's server are done before our own watchdog."""
        http = self._settings.http
        left = http.grace - 2.0 - (ENGINE_SECONDS if self._own_log else 0.0) - 0.5
        return max(http.drain_delay + 3.0, left / len(self._stages()))

    async def _stop(self) -> None:
        for stage in self._stages():
            async with asyncio.TaskGroup() as group:
                for name in stage:
                    for child in self._children.get(name, ()):
                        group.create_task(child.stop(self._stage_seconds()))


class _DataLock:
    """Says that a system runs on a data folder. Its processes inherit it, so it is free only when all are gone."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "lock"

    def take(self) -> bool:
        """Whether it is ours now."""
        with suppress(BlockingIOError):
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(self.fd, 0)
            os.pwrite(self.fd, str(os.getpid()).encode(), 0)
            return True
        return False

    def holder_lives(self) -> bool:
        """Whether the supervisor that took it last is still there."""
        with suppress(ValueError, ProcessLookupError):
            os.kill(int(os.pread(self.fd, 20, 0)), 0)
            return True
        return False

    def __enter__(self) -> Self:
        self.fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


def _leaves(group: BaseExceptionGroup[Failed]) -> list[Failed]:
    found: list[Failed] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found
