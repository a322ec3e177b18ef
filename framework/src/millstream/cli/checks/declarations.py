"""Whether the declared services can be bound and fit together, without opening anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ...clock import SystemClock
from ...contracts.dispatch import Dispatcher, RpcBinding
from ...delivery.outbox import Origin
from ...errors import Misconfigured
from ...http.limits import Limits
from ...http.parameters import plan_route
from ...ids import Ids
from ...ports.instrumentation import Silent
from ...ports.store import Param, Row, Session, Signal, StoreCapabilities
from ...ports.transport import Durability
from ...runtime.binding import bind_consumes, bind_schedule, contracts_wanted
from ...runtime.migrations import migrations_in
from ...runtime.settings import Settings
from ...service.context import ServiceContext
from ...service.contract import Contract
from ...service.service import Service
from ...service.topics import topics_of
from .findings import Findings

__all__ = ["check_declarations", "check_retention"]


def check_declarations(services: Sequence[Service], findings: Findings) -> None:
    """Names, parameters of every handler, contracts that somebody serves, topics that somebody writes."""
    names = [service.name for service in services]
    for name in sorted({name for name in names if names.count(name) > 1}):
        findings.problem("services", f"two services are called {name!r}")
    dispatcher = Dispatcher(SystemClock(), Silent())
    wanted: dict[type[Contract], list[str]] = {}
    for service in services:
        problems = _unbindable(service, dispatcher, wanted)
        findings.problem(service.name, *problems)
        if not problems:
            counts = (len(service.consumes), len(service.schedules), len(service.routes), len(service.methods))
            kinds = ("subscriptions", "schedules", "routes", "contract methods")
            parts = [f"{count} {kind}" for count, kind in zip(counts, kinds, strict=True) if count]
            findings.ok(service.name, f"binds: {', '.join(parts) or 'declares nothing'}")
    served = {name for name, _ in dispatcher.methods}
    for contract, users in wanted.items():
        if contract.service not in served:
            findings.problem("contracts", f"{', '.join(users)} calls {contract.service}, which no service here serves")
    for use in topics_of(services):
        if not use.publishers:
            readers = ", ".join(f"{service}/{name}" for service, name in use.subscriptions)
            findings.warn("topics", f"nobody here declares to publish to {use.topic!r}, read by {readers}")


def check_retention(services: Sequence[Service], settings: Settings, findings: Findings) -> None:
    """The inbox must outlive what can come back; an effect's call must end within its claim (rules C8, F4)."""
    consumption, log = settings.consumption, settings.transport
    longest, name = 0.0, ""
    for service in services:
        for declared in service.consumes:
            horizon = declared.retry.horizon()
            if horizon > longest:
                longest, name = horizon, f"{service.name}/{declared.name}"
            if declared.effect and declared.timeout >= consumption.lease:
                findings.problem(
                    "retention",
                    f"{service.name}/{declared.name}: its call may take {_span(declared.timeout)}, but a claim lasts "
                    f"{_span(consumption.lease)}: lower timeout= or raise consumption.lease",
                )
    needed = log.retention + longest
    if consumption.inbox_retention <= needed:
        findings.problem(
            "retention",
            f"the inbox forgets after {_span(consumption.inbox_retention)}, but a message can come back for "
            f"{_span(needed)}: the log keeps {_span(log.retention)}, and {name or 'the longest retry'} retries for "
            f"{_span(longest)}. Raise consumption.inbox_retention or lower transport.retention",
        )
    else:
        findings.ok(
            "retention", f"the inbox remembers {_span(consumption.inbox_retention)}, {_span(needed)} are needed"
        )


def _unbindable(service: Service, dispatcher: Dispatcher, wanted: dict[type[Contract], list[str]]) -> list[str]:
    problems: list[str] = []
    resources: dict[type[Any], object] = {resource.provides: object() for resource in service.resources}
    resources[ServiceContext] = object()

    def attempt(step: Callable[[], object]) -> None:
        try:
            step()
        except Misconfigured as error:
            problems.extend(p for p in error.problems if p not in problems)

    def contracts() -> None:
        for contract in sorted(contracts_wanted(service), key=lambda c: c.service):
            resources[contract] = object()
            wanted.setdefault(contract, []).append(service.name)

    attempt(contracts)
    migrations = service.migrations
    if migrations is not None:
        attempt(lambda: migrations_in(service.name, migrations))
    for declared in service.consumes:
        attempt(lambda declared=declared: bind_consumes(service.name, declared, resources))
    for schedule in service.schedules:
        attempt(lambda schedule=schedule: bind_schedule(schedule, resources))
    store = _NoStore()
    for route in service.routes:
        attempt(lambda route=route: plan_route(route, store, resources, Limits()))
    origin = Origin(f"/{service.name}", Ids())
    attempt(lambda: dispatcher.serve(_binding(service, store, origin, resources)))
    return problems


def _binding(service: Service, store: _NoStore, origin: Origin, resources: Mapping[type[Any], object]) -> RpcBinding:
    return RpcBinding(service.name, service.methods, store, origin, resources)


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.1f}".removesuffix(".0") + unit
    return f"{seconds:g}s"


class _NoStore:
    """Stands where a binding needs a store and nothing is run."""

    capabilities = StoreCapabilities("none", False, False, True, "sqlite")

    async def durability(self) -> Durability:
        raise AssertionError

    async def transact(self, work: Callable[[Session], Any]) -> Any:
        raise AssertionError

    async def query(self, sql: str, *params: Param) -> list[Row]:
        raise AssertionError

    async def scan(self, sql: str, *params: Param) -> list[Row]:
        raise AssertionError

    async def script(self, sql: str) -> None:
        raise AssertionError

    def listen(self, channel: str) -> Signal:
        raise AssertionError

    async def __aenter__(self) -> Self:
        raise AssertionError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise AssertionError
