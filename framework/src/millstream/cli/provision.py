"""`millstream provision`: topics, tables and subscriptions, before any event flows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from ..clock import SystemClock
from ..delivery.registration import Registered, register, register_relay
from ..delivery.subscription import Start, Subscription
from ..errors import Misconfigured
from ..ports.instrumentation import Silent
from ..ports.store import Session
from ..ports.transport import Transport
from ..runtime.adapters import AdapterContext, open_store, open_transport
from ..runtime.migrations import is_used, migrate
from ..runtime.settings import Settings
from ..service.service import Consumes, Service
from ..service.topics import topics_of
from ..signature import where as place
from .options import Configured, Json
from .output import Progress, print_json, progress, table
from .services import load_services

__all__ = ["provision", "provision_all"]


def provision(
    app: Annotated[str | None, Parameter(help="Import path of the services [default: from the settings].")] = None,
    /,
    *,
    topic: Annotated[tuple[str, ...], Parameter(help="Also this topic, which no service declares.")] = (),
    start: Annotated[
        Literal["earliest", "now"] | None,
        Parameter(name="--from", help="Where subscriptions begin that a used store does not know."),
    ] = None,
    json: Json = False,
    where: Configured = Configured(),  # noqa: B008 - immutable
) -> None:
    """Create what the services declare and does not exist yet; run it before the first of several processes starts.

    A single `millstream up` does the same at its start.
    """
    settings = where.settings(app=app, start=start)
    services = load_services(settings)
    with progress("provision", len(services) + 1) as bar:
        done = asyncio.run(provision_all(services, settings, topic, bar))
    if json:
        print_json(done)
        return
    table("Topics", ("topic", "partitions#", ""), ((t["topic"], t["partitions"], _new(t)) for t in done["topics"]))
    rows = ((s["service"], s["subscription"], s["topic"], _new(s)) for s in done["subscriptions"])
    table("Subscriptions", ("service", "subscription", "topic", ""), rows)


async def provision_all(
    services: Sequence[Service], settings: Settings, topics: Sequence[str], bar: Progress
) -> dict[str, list[dict[str, Any]]]:
    """Provision, and say what is there and whether it is new.

    Raises:
        Misconfigured: another process holds the engines (it has provisioned already), or a count or topic changed;
            every problem of every service.
    """
    settings.data.mkdir(parents=True, exist_ok=True)
    made: dict[str, list[dict[str, Any]]] = {"topics": [], "subscriptions": []}
    problems: list[str] = []
    context = AdapterContext(settings.data, SystemClock(), Silent())
    async with open_transport(settings.transport.url, context) as transport:
        for name in sorted({*(use.topic for use in topics_of(services)), *topics}):
            count = await transport.partitions(name)
            if count is None:
                await transport.provision(name, settings.transport.partitions)
            made["topics"].append(
                {"topic": name, "partitions": count or settings.transport.partitions, "new": count is None}
            )
        bar.advance()
        for service in services:
            bar.note(service.name)
            try:
                made["subscriptions"] += await _provision_service(service, settings, transport)
            except Misconfigured as error:
                problems.extend(error.problems)
            bar.advance()
    if problems:
        raise Misconfigured(problems)
    return made


async def _provision_service(service: Service, settings: Settings, transport: Transport) -> list[dict[str, Any]]:
    ends: dict[str, dict[int, int]] = {}
    for declared in service.consumes:
        count = await transport.partitions(declared.topic) or settings.transport.partitions
        ends[declared.topic] = {n: (await transport.bounds(declared.topic, n)).latest for n in range(count)}
    store = open_store(settings.store.url, service.name, settings.data, SystemClock(), Silent())
    async with store:
        await migrate(store, service.name, service.migrations)
        known = {row[0] for row in await store.query("SELECT name FROM millstream_subscriptions")}

        async def work(session: Session) -> list[Registered]:
            used = await is_used(session)
            await register_relay(session, 1)
            return [
                await register(session, _bare(service, c), len(ends[c.topic]), ends[c.topic], settings.start, used)
                for c in service.consumes
            ]

        registered = await store.transact(work)
        for entry in registered:
            rows = await store.query(
                "SELECT partition, position FROM millstream_claims WHERE subscription = ?", entry.id
            )
            for partition, position in rows:
                # The log keeps what a provisioned subscription has not read, also before it runs for the first time.
                await transport.mark(
                    f"{service.name}/{entry.subscription.name}", entry.subscription.topic, partition, position
                )
    return [
        {"service": service.name, "subscription": c.name, "topic": c.topic, "new": c.name not in known}
        for c in service.consumes
    ]


def _bare(service: Service, declared: Consumes) -> Subscription:
    """What registration needs of a subscription; nothing of it is run."""
    start: Start = declared.start
    return Subscription(
        service.name, declared.name, declared.topic, declared.events, declared.function, place(declared.function),
        effect=declared.effect, start=start,
    )  # fmt: skip


def _new(entry: dict[str, Any]) -> str:
    return "new" if entry["new"] else ""
