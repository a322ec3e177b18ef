"""The declaration of a service. It opens nothing and starts nothing: the runtime binds it to engines.

Decorators return the function unchanged, so it stays callable in a plain test.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

import msgspec

from ..clock import Duration, seconds
from ..delivery.subscription import AfterDeadLetter, Sequence, Start
from ..errors import Misconfigured
from ..message import EventType, event_type
from ..resilience.backoff import Retry
from ..signature import where
from .contract import Contract, Rpc, RpcMethod
from .route import Route

__all__ = ["Consumes", "Resource", "Schedule", "Service", "TakesIn"]

E = TypeVar("E")
P = ParamSpec("P")
R = TypeVar("R", bound=Awaitable[Any])
F = TypeVar("F", bound=Callable[..., Awaitable[Any]])
G = TypeVar("G", bound=Callable[..., AsyncIterator[Any]])


class Declares(Protocol[E]):
    """A decorator for functions whose first parameter takes the declared events, or a list of them."""

    @overload
    def __call__(self, function: Callable[Concatenate[E, P], R]) -> Callable[Concatenate[E, P], R]: ...

    @overload
    def __call__(self, function: Callable[Concatenate[list[E], P], R]) -> Callable[Concatenate[list[E], P], R]: ...


class DeclaresEffect(Protocol[E]):
    """A decorator for functions whose first parameter takes the declared events."""

    def __call__(self, function: Callable[Concatenate[E, P], R]) -> Callable[Concatenate[E, P], R]: ...


class Consumes(msgspec.Struct, frozen=True, eq=False):
    """A declared handler or effect, its dependencies not yet bound."""

    name: str
    topic: str
    events: tuple[EventType, ...]
    function: Callable[..., Awaitable[Any]]
    effect: bool
    retry: Retry
    after_dead_letter: AfterDeadLetter
    timeout: float
    concurrency: int
    sequence: Sequence | None
    start: Start


class Schedule(msgspec.Struct, frozen=True, eq=False):
    """A handler that runs at an interval, once per tick over all processes, in a transaction."""

    name: str
    every: float
    function: Callable[..., Awaitable[Any]]


class Resource(msgspec.Struct, frozen=True, eq=False):
    """How to make something that handlers ask for by its type."""

    provides: type[Any]
    factory: Callable[..., AsyncIterator[Any]]


class TakesIn(msgspec.Struct, frozen=True, eq=False):
    """A declared intake: what the messages of a foreign queue become."""

    name: str
    event: EventType


class Service:
    """One service: its name, its migrations, and everything declared on it.

    name: lower case, stable; it names the store, the source of its messages and its metrics.
    migrations: folder of numbered `.sql` files beside the module that declares the service, or None.
    """

    def __init__(self, name: str, *, migrations: str | None = None) -> None:
        if not name or not all(c.islower() or c.isdigit() or c in "-_" for c in name):
            raise Misconfigured(f"service {name!r}: a name is lower-case letters, digits, '-' and '_'")
        self.name = name
        self.migrations: str | None = None
        if migrations is not None:
            self.migrations = _beside_caller(migrations)
        self.consumes: list[Consumes] = []
        self.schedules: list[Schedule] = []
        self.routes: list[Route] = []
        self.methods: list[RpcMethod] = []
        self.resources: list[Resource] = []
        self.publishes: list[EventType] = []
        self.intakes: list[TakesIn] = []

    # -- events -------------------------------------------------------------------------------------------------

    def on(
        self,
        *events: type[E],
        name: str,
        retry: Retry = Retry(),  # noqa: B008 - immutable
        after_dead_letter: AfterDeadLetter = "hold",
        sequence: Sequence | None = None,
        start: Start = "earliest",
    ) -> Declares[E]:
        """Handle events of one topic in a transaction: `async (event, tx) -> event(s) or None`.

        A parameter typed `list[Event]` receives up to a batch at once. `name` is the subscription: keep it stable, it
        is what positions, inbox and dead letters are stored under.

        retry: how a failing message is tried again; its lane waits, all others go on.
        after_dead_letter: `hold` (default, because order is promised) keeps the lane until somebody redrives or drops
            the letter; `go_on` lets the next message run.
        start: where a subscription begins that the store has never seen.
        """
        return cast(
            Declares[E],
            self._consume(events, name, False, retry, after_dead_letter, 30.0, 1, sequence, start),
        )

    def effect(
        self,
        *events: type[E],
        name: str,
        retry: Retry = Retry(),  # noqa: B008 - immutable
        after_dead_letter: AfterDeadLetter = "hold",
        timeout: Duration = "10s",
        concurrency: int = 16,
        start: Start = "earliest",
    ) -> DeclaresEffect[E]:
        """Call the outside world for each event: `async (event, call) -> event(s) or None`, at least once.

        Lanes run side by side, `concurrency` calls at once in a process; a slow call delays only its own key. What it
        returns is published when its outcome is recorded. `call.idempotency_key` and `call.fence` are for the other
        side.
        """
        return cast(
            DeclaresEffect[E],
            self._consume(events, name, True, retry, after_dead_letter, seconds(timeout), concurrency, None, start),
        )

    def _consume(
        self,
        events: tuple[type[Any], ...],
        name: str,
        effect: bool,
        retry: Retry,
        after: AfterDeadLetter,
        timeout: float,
        concurrency: int,
        sequence: Sequence | None,
        start: Start,
    ) -> Callable[[F], F]:
        def declare(function: F) -> F:
            problems: list[str] = []
            declared = [event_type(e) for e in events]
            topics = {d.topic for d in declared}
            if not declared:
                problems.append(f"{where(function)}: name at least one event")
            if len(topics) > 1:
                problems.append(
                    f"{where(function)}: a subscription reads one topic, these events lie in {', '.join(sorted(topics))}; "
                    "declare one handler for each topic"
                )
            if any(c.name == name for c in self.consumes):
                problems.append(f"{where(function)}: service {self.name} already has a subscription {name!r}")
            if problems:
                raise Misconfigured(problems)
            self.consumes.append(
                Consumes(
                    name,
                    topics.pop(),
                    tuple(declared),
                    function,
                    effect,
                    retry,
                    after,
                    timeout,
                    concurrency,
                    sequence,
                    start,
                )
            )
            return function

        return declare

    def emits(self, *events: type[Any]) -> None:
        """Declare events that this service publishes, so that topics are provisioned and documented (AsyncAPI).

        Events that handlers name in their return types are found without it.
        """
        self.publishes.extend(event_type(e) for e in events)

    def take_in(self, event: type[Any], *, name: str) -> None:
        """Take the messages of a foreign queue in as events of this type, acknowledged once they are durable here.

        Which queue is configuration: `[intakes] NAME = "rabbitmq://…?queue=legacy"`. A body that fits the event gets its
        key; a CloudEvents message keeps its own envelope; what fits nothing becomes a dead letter of who subscribes.
        """
        if any(taken.name == name for taken in self.intakes):
            raise Misconfigured(f"service {self.name} already has an intake {name!r}")
        declared = event_type(event)
        self.intakes.append(TakesIn(name, declared))
        self.publishes.append(declared)

    def every(self, interval: Duration, *, name: str) -> Callable[[F], F]:
        """Run `async (tx) -> event(s) or None` at an interval, once per tick however many processes there are."""

        def declare(function: F) -> F:
            if any(s.name == name for s in self.schedules):
                raise Misconfigured(f"{where(function)}: service {self.name} already has a schedule {name!r}")
            self.schedules.append(Schedule(name, seconds(interval), function))
            return function

        return declare

    # -- edges --------------------------------------------------------------------------------------------------

    def route(
        self,
        method: str,
        path: str,
        *,
        idempotent: bool = False,
        forwards_key: bool = False,
        public: bool = False,
        roles: tuple[str, ...] = (),
        summary: str = "",
    ) -> Callable[[F], F]:
        """Declare an HTTP operation; see `http.route.Route` for the options."""

        def declare(function: F) -> F:
            self.routes.append(Route(method, path, function, idempotent, forwards_key, public, roles, summary))
            return function

        return declare

    def get(
        self, path: str, *, public: bool = False, roles: tuple[str, ...] = (), summary: str = ""
    ) -> Callable[[F], F]:
        """A read: takes `Query`, path and query parameters, `Caller`, contracts."""
        return self.route("GET", path, public=public, roles=roles, summary=summary)

    def post(
        self,
        path: str,
        *,
        idempotent: bool = False,
        forwards_key: bool = False,
        public: bool = False,
        roles: tuple[str, ...] = (),
        summary: str = "",
    ) -> Callable[[F], F]:
        """A write: takes a body, `Tx`, `Caller`, contracts."""
        return self.route(
            "POST", path, idempotent=idempotent, forwards_key=forwards_key, public=public, roles=roles, summary=summary
        )

    def put(self, path: str, *, roles: tuple[str, ...] = (), summary: str = "") -> Callable[[F], F]:
        """An idempotent write by HTTP's own meaning."""
        return self.route("PUT", path, roles=roles, summary=summary)

    def patch(
        self, path: str, *, idempotent: bool = False, roles: tuple[str, ...] = (), summary: str = ""
    ) -> Callable[[F], F]:
        """A change of a part."""
        return self.route("PATCH", path, idempotent=idempotent, roles=roles, summary=summary)

    def delete(self, path: str, *, roles: tuple[str, ...] = (), summary: str = "") -> Callable[[F], F]:
        """A removal."""
        return self.route("DELETE", path, roles=roles, summary=summary)

    def rpc(self, method: Rpc[Any, Any], *, idempotent: bool = False) -> Callable[[F], F]:
        """Serve a contract's method: `async (request, caller, tx) -> response`.

        idempotent: calls carry a key; the reply is stored in the transaction of the work and repeated byte for byte.
        """

        def declare(function: F) -> F:
            contract: type[Contract] | None = method.contract
            if contract is None:
                raise Misconfigured(f"{where(function)}: {method.name} belongs to no contract class")
            self.methods.append(
                RpcMethod(contract.service, method.name, method.request, method.response, function, idempotent)
            )
            return function

        return declare

    # -- what handlers ask for ----------------------------------------------------------------------------------

    def resource(self, provides: type[Any]) -> Callable[[G], G]:
        """Declare how to make something that handlers take by type: an async generator that yields it once.

        ```python
        @notifications.resource(Smtp)
        async def smtp(settings: Settings) -> AsyncIterator[Smtp]:
            async with connect(settings["smtp"]) as client:
                yield client
        ```
        """

        def declare(factory: G) -> G:
            self.resources.append(Resource(provides, factory))
            return factory

        return declare


def _beside_caller(folder: str) -> str:
    import sys  # the one place that looks at its caller, so that `migrations="sql"` means "beside this module"
    from pathlib import Path

    module = sys._getframe(2).f_globals.get("__file__", "")  # pyright: ignore[reportPrivateUsage] - the only way to look
    return str(Path(module).parent / folder)
