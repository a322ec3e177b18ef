"""The HTTP application: the routes of all services of a process, as one ASGI application.

Declared routes are answered without a framework in between: an exact path is a dictionary's look-up, each handler's
parameters were planned when the application was built. What is mounted beside them (`extra_routes`: probes, documents,
a console, an application of one's own) goes through Starlette's router; it needs no token and takes no place among
the requests under way, so that a full house still answers its probes.

Not done here: TLS, compression, CORS and virtual hosts belong to the proxy in front. `Accept` is not judged: a reply
has one form (RFC 9110 §12.4.1 allows that).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any

import msgspec
from starlette.datastructures import State
from starlette.routing import BaseRoute, Match, Router

from ..clock import Clock
from ..delivery.idempotency import Idempotency
from ..delivery.outbox import Origin
from ..errors import Misconfigured
from ..ids import Ids
from ..ports.instrumentation import Instrumentation
from ..ports.store import Store
from ..service.route import Route
from .admission import Admission
from .auth import Authenticate
from .endpoint import Edge, Endpoint, Work, request_id_of
from .limits import Limits, check_head
from .parameters import Plan, plan_route
from .problems import Problem
from .replies import Answer, of_problem
from .routing import RouteTable

__all__ = ["HttpApp", "HttpBinding", "build_app", "plan_routes"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_CLOSE = ((b"connection", b"close"),)
# Replies are data of one caller, not pages: nothing may guess their type or keep them, unless a handler says so.
_ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store"))


class HttpBinding(msgspec.Struct, frozen=True, eq=False):
    """The routes of one service, with what they run on. `resources` holds, by type, what handlers may ask for,
    clients of contracts included."""

    name: str
    routes: Sequence[Route]
    store: Store
    origin: Origin
    resources: Mapping[type[Any], object]


def plan_routes(bindings: Sequence[HttpBinding], limits: Limits) -> list[tuple[HttpBinding, Route, Plan]]:
    """The plan of every route.

    Raises:
        Misconfigured: lists what cannot be filled, over all routes.
    """
    problems: list[str] = []
    planned: list[tuple[HttpBinding, Route, Plan]] = []
    for binding in bindings:
        for route in binding.routes:
            try:
                planned.append((binding, route, plan_route(route, binding.store, binding.resources, limits)))
            except Misconfigured as error:
                problems.extend(error.problems)
    if problems:
        raise Misconfigured(problems)
    return planned


def build_app(
    bindings: Sequence[HttpBinding],
    *,
    authenticate: Authenticate | None,
    clock: Clock,
    ids: Ids,
    instrumentation: Instrumentation,
    limits: Limits = Limits(),  # noqa: B008 - immutable
    extra_routes: Sequence[BaseRoute] = (),
) -> HttpApp:
    """The application of these services.

    authenticate: from bearer token to identity (`auth.BearerTokens`); None is allowed while every route is public.

    Raises:
        Misconfigured: lists every problem: parameters that cannot be filled, paths served twice, private routes
            without `authenticate`.
    """
    edge = Edge(authenticate, clock, ids, instrumentation, limits)
    table: RouteTable[Endpoint] = RouteTable()
    problems: list[str] = []
    works: dict[str, Work] = {}
    for binding, route, plan in plan_routes(bindings, limits):
        work = works.get(binding.name)
        if work is None:
            idempotency = Idempotency(binding.store, clock)
            work = works[binding.name] = Work(binding.name, binding.store, binding.origin, idempotency)
        if authenticate is None and not route.public:
            problems.append(f"{route.method} {route.path}: needs a token, and no authentication is configured")
        try:
            table.add(route.method, route.path, Endpoint(edge, work, route, plan))
        except Misconfigured as error:
            problems.extend(error.problems)
    if problems:
        raise Misconfigured(problems)
    return HttpApp(edge, table, Router(routes=list(extra_routes)))


class HttpApp:
    """An ASGI application. `state.draining = True` lets every reply close its connection."""

    def __init__(self, edge: Edge, table: RouteTable[Endpoint], extra: Router) -> None:
        self.state = State()
        self.state.draining = False
        self._edge = edge
        self._table = table
        self._extra = extra
        self.admission = Admission(edge.limits, edge.instrumentation, "http")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            root = scope.get("root_path")
            if root and path.startswith(root):
                path = path[len(root) :] or "/"
            found = self._table.find(path)
            if found is None and self._is_extra(scope):
                await self._mounted(scope, receive, send)
            else:
                await self._declared(found, scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        else:
            await self._extra(scope, receive, send)

    async def _declared(
        self, found: tuple[dict[str, Endpoint], tuple[str, ...]] | None, scope: Scope, receive: Receive, send: Send
    ) -> None:
        request_id: str | None = None
        entered = False
        try:
            try:
                headers = check_head(scope, self._edge.limits)
                request_id = request_id_of(headers, self._edge.ids)
                endpoint, values = _endpoint(found, scope["method"])
                self.admission.enter()
                entered = True
                answer = await endpoint.answer(scope, receive, headers, values, request_id)
            except Problem as problem:
                answer = of_problem(problem)
            except _Options as options:
                answer = Answer(204, ((b"allow", options.allow),), b"")
            if answer is not None:
                await self._send(answer, request_id or self._edge.ids.new(), scope, receive, send)
        finally:
            if entered:
                self.admission.leave()

    async def _send(self, answer: Answer, request_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        if answer.response is not None:
            answer.response.headers["x-request-id"] = request_id
            if self.state.draining:
                answer.response.headers["connection"] = "close"
            await answer.response(scope, receive, send)
            return
        headers = [*answer.headers, (b"x-request-id", request_id.encode())]
        given = {name for name, _ in answer.headers}
        headers.extend(pair for pair in _ALWAYS if pair[0] not in given)
        if answer.status not in (204, 304):
            headers.append((b"content-length", b"%d" % len(answer.body)))
        if self.state.draining and b"connection" not in given:
            headers.extend(_CLOSE)
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else answer.body})

    def _is_extra(self, scope: Scope) -> bool:
        return any(route.matches(scope)[0] is not Match.NONE for route in self._extra.routes)

    async def _mounted(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing(message: MutableMapping[str, Any]) -> None:
            if self.state.draining and message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_CLOSE]
            await send(message)

        try:
            check_head(scope, self._edge.limits)
        except Problem as problem:
            await self._send(of_problem(problem), self._edge.ids.new(), scope, receive, send)
            return
        await self._extra(scope, receive, closing)


class _Options(Exception):
    def __init__(self, allow: bytes) -> None:
        self.allow = allow


def _endpoint(
    found: tuple[dict[str, Endpoint], tuple[str, ...]] | None, method: str
) -> tuple[Endpoint, tuple[str, ...]]:
    if found is None:
        raise Problem(404, "there is nothing under this path")
    methods, values = found
    endpoint = methods.get(method)
    if endpoint is None and method == "HEAD":
        endpoint = methods.get("GET")
    if endpoint is not None:
        return endpoint, values
    allowed = sorted({*methods, *(("HEAD",) if "GET" in methods else ()), "OPTIONS"})
    if method == "OPTIONS":
        raise _Options(", ".join(allowed).encode())
    raise Problem(405, f"this path takes {', '.join(allowed)}", headers={"allow": ", ".join(allowed)})


async def _lifespan(receive: Receive, send: Send) -> None:
    """The runtime starts and stops what the application uses; a server's own lifespan has nothing to do."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
