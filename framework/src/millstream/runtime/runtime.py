"""The composition root: binds declared services to engines, starts their workers, and stops them in order.

Nothing here knows an engine: stores and the log come in from outside, as do clock, entropy and instrumentation, so
that a test and the simulator compose the same code.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..clock import Clock, SystemClock
from ..contracts.dispatch import Dispatcher, RpcBinding
from ..contracts.in_process import InProcessChannel
from ..delivery.consumption import Limits
from ..delivery.intake import Intake
from ..delivery.outbox import Origin
from ..delivery.pacing import Pacer
from ..delivery.registration import Registered, register, register_relay
from ..delivery.solo import Solo
from ..delivery.subscription import Start, Subscription
from ..delivery.supervision import Supervised
from ..delivery.worker import Engines, Worker
from ..errors import Misconfigured
from ..ids import Entropy, Ids, SystemEntropy
from ..ports.instrumentation import Instrumentation, Silent
from ..ports.intake import IntakeSource
from ..ports.store import Session, Store
from ..ports.transport import Transport
from ..service.context import ServiceContext
from ..service.contract import Channel
from ..service.service import Service, TakesIn
from ..service.topics import topics_of
from .binding import Resources, bind_consumes, bind_schedule, contracts_wanted, open_resources
from .migrations import is_used, migrate
from .nearest import NearestChannel

__all__ = ["Bound", "Composition", "Runtime"]


def _no_intake(name: str) -> IntakeSource:
    raise Misconfigured(f"intake {name!r}: this composition opens none; give it `open_intake`, or leave the intake out")


@dataclass(frozen=True)
class Composition:
    """The collaborators of a runtime, and its settings.

    open_store: makes a store by its service's name, or by the one that a resource gives. open_intake: a foreign queue by the
    name of its intake. start: where subscriptions begin that a used store does not know.
    """

    open_store: Callable[[str], Store]
    transport: Transport
    data: Path
    clock: Clock = field(default_factory=SystemClock)
    entropy: Entropy = field(default_factory=SystemEntropy)
    instrumentation: Instrumentation = field(default_factory=Silent)
    limits: Limits = field(default_factory=Limits)
    partitions: int = 8
    start: Start | None = None
    settings: Callable[[str], Mapping[str, Any]] = lambda _: {}
    http_url: str = ""
    remote: Channel | None = None
    """Calls of contracts that no service of this runtime serves."""
    open_intake: Callable[[str], IntakeSource] = _no_intake
    without_intakes: frozenset[str] = frozenset()
    """Names of intakes that stay closed here."""


@dataclass(frozen=True)
class Bound:
    """A service on its engines."""

    service: Service
    store: Store
    origin: Origin
    resources: Resources
    worker: Worker


class Runtime:
    """Runs services: open with `async with`; leaving stops them in order if `stop` was not called before."""

    def __init__(self, services: Sequence[Service], composition: Composition) -> None:
        names = [service.name for service in services]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise Misconfigured([f"two services are called {name!r}" for name in twice])
        self.services = tuple(services)
        self.composition = composition
        self.ids = Ids(composition.entropy, lambda: composition.clock.now_us() // 1000)
        self.bound: dict[str, Bound] = {}
        self.pacer = Pacer(composition.clock)
        """Tell it when requests are under way."""
        self.solo = Solo()
        self.dispatcher = Dispatcher(composition.clock, composition.instrumentation)
        self.channel = self._channel_to(composition.remote)
        self._stack = AsyncExitStack()
        self._stopping = self._stopped = False

    def _channel_to(self, remote: Channel | None) -> Channel:
        here = InProcessChannel(self.dispatcher, self.composition.clock, self.composition.instrumentation)
        if remote is None:
            return here
        return NearestChannel({method.service for s in self.services for method in s.methods}, here, remote)

    async def __aenter__(self) -> Self:
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            await self.stop(5.0)
        await self._stack.__aexit__(kind, error, trace)

    async def _start(self) -> None:
        c = self.composition
        await self._stack.enter_async_context(c.transport)
        for use in topics_of(self.services):
            if await c.transport.partitions(use.topic) is None:
                await c.transport.provision(use.topic, c.partitions)
        opened = [(service, *await self._open(service)) for service in self.services]
        problems: list[str] = []
        for service, store, resources in opened:
            try:
                origin = Origin(f"/{service.name}", self.ids)
                self.dispatcher.serve(RpcBinding(service.name, service.methods, store, origin, resources))
                worker = await self._worker(service, store, resources)
                self.bound[service.name] = Bound(service, store, origin, resources, worker)
            except Misconfigured as error:
                problems.extend(error.problems)
        if problems:
            raise Misconfigured(problems)
        group = await self._stack.enter_async_context(asyncio.TaskGroup())
        for bound in self.bound.values():
            group.create_task(bound.worker.run())

    async def _open(self, service: Service) -> tuple[Store, Resources]:
        c = self.composition
        store = await self._stack.enter_async_context(c.open_store(service.name))
        await migrate(store, service.name, service.migrations)
        if not store.capabilities.several_processes:
            # Only this process can hold claims of this store, so those of a former one are free at once.
            await store.script("UPDATE millstream_claims SET expires = 0; DELETE FROM millstream_workers")
        context = ServiceContext(
            service.name,
            c.data,
            c.settings(service.name),
            c.clock,
            c.entropy,
            c.instrumentation,
            c.open_store,
            c.http_url,
        )
        resources = await open_resources(
            service.resources, context, self.channel, contracts_wanted(service), self._stack
        )
        return store, resources

    async def _worker(self, service: Service, store: Store, resources: Resources) -> Worker:
        c, problems = self.composition, list[str]()
        subscriptions: list[Subscription] = []
        for declared in service.consumes:
            try:
                subscriptions.append(bind_consumes(service.name, declared, resources))
            except Misconfigured as error:
                problems.extend(error.problems)
        if problems:
            raise Misconfigured(problems)
        ticking = [bind_schedule(schedule, resources) for schedule in service.schedules]
        counts: dict[str, int] = {}
        ends: dict[str, dict[int, int]] = {}
        for subscription in subscriptions:
            topic = subscription.topic
            if topic not in counts:
                counts[topic] = await c.transport.partitions(topic) or c.partitions
                ends[topic] = {p: (await c.transport.bounds(topic, p)).latest for p in range(counts[topic])}

        async def work(session: Session) -> list[Registered]:
            used = await is_used(session)
            await register_relay(session, 1)
            return [await register(session, s, counts[s.topic], ends[s.topic], c.start, used) for s in subscriptions]

        registered = await store.transact(work)
        for known in registered:
            for partition in range(known.partitions):
                rows = await store.query(
                    "SELECT position FROM millstream_claims WHERE subscription = ? AND partition = ?",
                    known.id,
                    partition,
                )
                await c.transport.mark(
                    f"{service.name}/{known.subscription.name}", known.subscription.topic, partition, rows[0][0]
                )
        engines = Engines(
            store, c.transport, c.clock, c.entropy, self.ids, c.instrumentation, self.pacer, self.solo, c.limits
        )
        intakes = [
            self._intake(service, taken, store) for taken in service.intakes if taken.name not in c.without_intakes
        ]
        return Worker(service.name, registered, ticking, engines, f"{service.name}-{self.ids.new()}", intakes)

    def _intake(self, service: Service, taken: TakesIn, store: Store) -> Supervised:
        c = self.composition
        c.open_intake(taken.name)  # what is wrong with its configuration is said now
        intake = Intake(
            taken.name,
            service.name,
            taken.event,
            lambda: c.open_intake(taken.name),
            store,
            clock=c.clock,
            ids=self.ids,
            entropy=c.entropy,
            instrumentation=c.instrumentation,
        )
        return Supervised(
            intake,
            f"intake {service.name}/{taken.name}",
            clock=c.clock,
            entropy=c.entropy,
            instrumentation=c.instrumentation,
            labels=(("service", service.name),),
        )

    @property
    def ready(self) -> bool:
        """Whether every worker has looked at its claims."""
        return not self._stopped and all(bound.worker.ready for bound in self.bound.values())

    async def stop_consuming(self, deadline: float) -> None:
        """The first half of `stop`: read and claim nothing new; finish what runs within `deadline` seconds, then
        cancel it and give its starts back. Requests may still be answered meanwhile."""
        if self._stopping:
            return
        self._stopping = True
        async with asyncio.TaskGroup() as group:
            for bound in self.bound.values():
                group.create_task(bound.worker.stop_consuming(deadline))

    async def stop(self, deadline: float) -> None:
        """Stop in order: `stop_consuming`; the relays confirm and delete what they have in hand; claims are released.
        Engines close on leaving the context."""
        if self._stopped:
            return
        await self.stop_consuming(deadline)
        self._stopped = True
        async with asyncio.TaskGroup() as group:
            for bound in self.bound.values():
                group.create_task(bound.worker.stop())
