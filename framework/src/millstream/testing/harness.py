"""The real kernel in a plain test: real SQLite in a temporary folder, a clock in hand, no sleep, no mock.

```python
async def test_a_paid_order_is_confirmed(millstream):
    async with millstream(orders) as ms:
        order = await ms.post("/orders", NEW_ORDER, key="k1")
        await ms.publish(PaymentSucceeded(order["id"]))
        await ms.quiet()
        assert (await ms.get(f"/orders/{order['id']}"))["state"] == "CONFIRMED"
        assert ms.published(OrderConfirmed) == [OrderConfirmed(order["id"])]
```

Time stands still until `advance`: a retry in a minute takes no minute.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from ..clock import Duration, seconds
from ..delivery.consumption import Limits
from ..delivery.intake import accept
from ..errors import MillstreamError, Misconfigured
from ..http.app import HttpApp, HttpBinding, build_app
from ..http.auth import Identity
from ..message import Message, decode_message, encode_message, event_type, format_time, partition_of
from ..message import Record as LogRecord
from ..ports.intake import ForeignMessage
from ..ports.store import Row, Store
from ..runtime.runtime import Composition, Runtime
from ..service.service import Service
from ..stores.sqlite import SqliteStore
from ..transports.memory import MemoryTransport
from .asgi import Answer, request
from .clock import ManualClock

__all__ = ["Answer", "Harness", "HttpFailure", "NeverQuiet"]

E = TypeVar("E")
PATIENCE = 20.0
"""Real seconds after which `quiet` gives up: far beyond any test, so that a hang becomes a message."""
START_US = 1_767_225_600_000_000
"""2026-01-01T00:00:00Z, where a harness's clock begins."""


class NeverQuiet(MillstreamError):
    """Something stayed in flight; the message says what."""


class HttpFailure(MillstreamError):
    """A request that was expected to succeed did not. `answer` is what came back."""

    def __init__(self, method: str, path: str, answer: Answer) -> None:
        super().__init__(f"{method} {path} answered {answer.status}: {answer.body.decode(errors='replace')[:500]}")
        self.answer = answer


class Harness:
    """Services on a temporary folder; open with `async with`.

    subject, roles: who sends the requests of `get`, `post` and `call` unless they say otherwise.
    settings: free settings by service name.
    """

    def __init__(
        self,
        *services: Service,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        subject: str = "tester",
        roles: Sequence[str] = (),
        limits: Limits | None = None,
        partitions: int = 4,
        data: Path | None = None,
    ) -> None:
        self.services = services
        self.subject = subject
        self.roles = tuple(roles)
        self.clock = ManualClock(START_US)
        self.transport = MemoryTransport(observe=self._published)
        self._log: dict[str, list[LogRecord]] = {}
        self._settings = settings or {}
        self._limits = limits or Limits()
        self._partitions = partitions
        self._data = data
        self._stack = AsyncExitStack()
        self._stores: list[Store] = []
        self._app: HttpApp | None = None

    async def __aenter__(self) -> Self:
        data = self._data or Path(self._stack.enter_context(TemporaryDirectory(prefix="millstream-")))
        composition = Composition(
            open_store=lambda name: self._opened(name, data),
            transport=self.transport,
            data=data,
            clock=self.clock,
            limits=self._limits,
            partitions=self._partitions,
            settings=lambda name: self._settings.get(name, {}),
            without_intakes=frozenset(taken.name for service in self.services for taken in service.intakes),
        )
        try:
            self.runtime = await self._run(composition)
        except BaseException:
            await self._stack.aclose()
            raise
        bound = self.runtime.bound.values()
        self._app = build_app(
            [HttpBinding(b.service.name, b.service.routes, b.store, b.origin, b.resources) for b in bound],
            authenticate=self._identify,
            clock=self.clock,
            ids=self.runtime.ids,
            instrumentation=composition.instrumentation,
        )
        self.clock.busy = lambda: any(self._busy(store) for store in self._stores)
        await self._until(lambda: self.runtime.ready, "the workers did not start")
        return self

    def _opened(self, name: str, data: Path) -> Store:
        self._stores.append(self._open_store(name, data))
        return self._stores[-1]

    def _open_store(self, name: str, data: Path) -> Store:
        """A store by its service's name, on the clock in hand."""
        # A power cut does not happen in a plain test, and not waiting for the disk makes it fast.
        return SqliteStore(data / f"{name}.db", clock=self.clock, synchronous="OFF")

    def _busy(self, store: Store) -> bool:
        """Whether a store is at work beside the loop."""
        return isinstance(store, SqliteStore) and store.file.busy

    async def _run(self, composition: Composition) -> Runtime:
        """Start the services on this composition."""
        return await self._stack.enter_async_context(Runtime(self.services, composition))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    # -- the outside ----------------------------------------------------------------------------------------------

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        key: str | None = None,
        subject: str | None = None,
        roles: Sequence[str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request; returns the answer whatever its status. `key` is the `Idempotency-Key`."""
        who = f"{subject or self.subject}|{','.join(self.roles if roles is None else roles)}"
        sent = {"authorization": f"Bearer {who}", **(headers or {})}
        if key is not None:
            sent["idempotency-key"] = key
        payload = b""
        if body is not None:
            payload = body if isinstance(body, bytes) else msgspec.json.encode(body)
            sent.setdefault("content-type", "application/json")
        assert self._app is not None, "open the harness with `async with`"
        return await request(self._app, method, path, payload, sent)

    async def get(self, path: str, **options: Any) -> Any:
        """The decoded body of a GET.

        Raises:
            HttpFailure: the status is no success.
        """
        return await self._expect("GET", path, None, options)

    async def post(self, path: str, body: object = None, **options: Any) -> Any:
        """The decoded body of a POST.

        Raises:
            HttpFailure: the status is no success.
        """
        return await self._expect("POST", path, body, options)

    async def _expect(self, method: str, path: str, body: object, options: dict[str, Any]) -> Any:
        answer = await self.call(method, path, body, **options)
        if answer.status >= 300:
            raise HttpFailure(method, path, answer)
        return answer.json() if answer.body else None

    async def _identify(self, token: str) -> Identity:
        subject, _, roles = token.partition("|")
        return Identity(subject, tuple(r for r in roles.split(",") if r))

    # -- events ---------------------------------------------------------------------------------------------------

    async def take_in(self, intake: str, *messages: ForeignMessage) -> None:
        """Accept messages as the intake of this name would from its queue."""
        for bound in self.runtime.bound.values():
            for taken in bound.service.intakes:
                if taken.name == intake:
                    source = f"/{bound.service.name}/intake/{intake}"
                    await accept(bound.store, messages, taken.event, source, self.runtime.ids, self.clock.now_us())
                    return
        raise Misconfigured(f"no service of this harness has an intake {intake!r}")

    async def publish(self, *events: object, tenant: str | None = None) -> None:
        """Put events on the log as another system would, in this order."""
        for event in events:
            declared = event_type(type(event))
            message = Message(
                id=self.runtime.ids.new(),
                source="/test",
                type=declared.name,
                time=format_time(self.clock.now_us()),
                data=msgspec.Raw(declared.encode(event)),
                subject=declared.key_of(event),
                datacontenttype="application/json",
                dataversion=declared.version,
                tenant=tenant,
            )
            await self.publish_raw(declared.topic, encode_message(message), message.subject)

    async def publish_raw(self, topic: str, value: bytes, key: str | None = None) -> None:
        """Put bytes on the log, whatever they are."""
        partitions = await self.transport.partitions(topic) or 1
        await self.transport.publish(topic, partition_of(key or "", partitions), [LogRecord(value, key)])

    def messages(self, topic: str) -> list[Message]:
        """Everything on a topic, in the order in which it was published."""
        return [decode_message(record.value) for record in self._log.get(topic, ())]

    def published(self, cls: type[E]) -> list[E]:
        """All events of a type that were published, in order; of another service's or of `publish` too."""
        declared = event_type(cls)
        return [
            declared.read(message.dataversion, bytes(message.data))
            for message in self.messages(declared.topic)
            if message.type == declared.name
        ]

    def _published(self, topic: str, records: Sequence[LogRecord]) -> None:
        self._log.setdefault(topic, []).extend(records)

    # -- time and rest --------------------------------------------------------------------------------------------

    async def advance(self, duration: Duration) -> None:
        """Let time pass: what becomes due runs, and what follows from it, before this returns."""
        await self.clock.advance(seconds(duration))
        await self.quiet()

    async def quiet(self) -> None:
        """Return when nothing is in flight: outboxes empty, logs read to their ends, nothing parked that is due.

        Raises:
            NeverQuiet: something stays in flight; the message says what.
        """
        deadline = asyncio.get_running_loop().time() + PATIENCE
        rested = 0
        while rested < 2:  # what one look caught between two steps, the next one sees
            found = await self._in_flight()
            rested = 0 if found else rested + 1
            if asyncio.get_running_loop().time() > deadline:
                raise NeverQuiet("; ".join(found + await self._without_topic()))
            await asyncio.sleep(0.001)

    async def _without_topic(self) -> list[str]:
        """Why outbox rows may never leave: nobody declared their topic."""
        return [
            f"topic {topic!r} does not exist: declare its event with `{name}.emits(…)` or as a handler's return type"
            for name, bound in self.runtime.bound.items()
            for (topic,) in await bound.store.query("SELECT DISTINCT topic FROM millstream_outbox")
            if await self.transport.partitions(topic) is None
        ]

    async def _in_flight(self) -> list[str]:
        found = ["a transaction that is not committed yet"] if self.clock.busy() else []
        for name, bound in self.runtime.bound.items():
            # Positions first: a batch that commits in the thread between two of these looks has moved its position with
            # its outbox rows. Looked at last, it would show the end reached, and its rows would not have been there yet.
            for subscription, topic, partition, position in await bound.store.query(
                "SELECT s.name, s.topic, c.partition, c.position FROM millstream_claims c "
                "JOIN millstream_subscriptions s ON s.id = c.subscription"
            ):
                bounds = await self.transport.bounds(topic, partition)
                if bounds.lag(position):
                    found.append(
                        f"{name}/{subscription}: partition {partition} stands at {position} of {bounds.latest}"
                    )
            checks = {
                "outbox rows": "SELECT COUNT(*) FROM millstream_outbox o WHERE NOT EXISTS (SELECT 1 FROM "
                "millstream_held_keys h WHERE h.topic = o.topic AND (h.key = o.key OR h.row_id = o.id))",
                "timers due": "SELECT COUNT(*) FROM millstream_timers WHERE due <= millstream_now()",
                "schedules due": "SELECT COUNT(*) FROM millstream_schedules WHERE due <= millstream_now()",
                "lanes due or running": "SELECT COUNT(*) FROM millstream_lanes "
                "WHERE state = 2 OR (state IN (0, 4) AND due <= millstream_now())",
            }
            for what, sql in checks.items():
                count = (await bound.store.query(sql))[0][0]
                if count:
                    found.append(f"{name}: {count} {what}")
        return found

    async def _until(self, condition: Any, otherwise: str) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not condition():
            if asyncio.get_running_loop().time() > deadline:
                raise NeverQuiet(otherwise)
            await asyncio.sleep(0.001)

    # -- looking inside -------------------------------------------------------------------------------------------

    async def rows(self, service: Service | str, sql: str, *params: Any) -> list[Row]:
        """Committed rows of a service's store."""
        name = service if isinstance(service, str) else service.name
        return await self.runtime.bound[name].store.query(sql, *params)

    async def dead_letters(self, service: Service | str) -> list[Row]:
        """(subscription, key, reason, error) of a service's dead letters."""
        return await self.rows(
            service,
            "SELECT s.name, d.key, d.reason, d.error FROM millstream_dead_letters d "
            "JOIN millstream_subscriptions s ON s.id = d.subscription ORDER BY d.id",
        )
