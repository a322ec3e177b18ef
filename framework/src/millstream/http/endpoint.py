"""One route at work: head, token, body, handler, reply.

The order is that of cost and of trust: nothing of a body is read for a caller who may not call, and nothing of the
work starts for a request that does not hold. A handler with a `Tx` runs inside the store's transaction, its reply is
encoded in there, and leaves only after the commit.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ..caller import Caller
from ..clock import Clock
from ..contracts.time_limit import TimeLimit
from ..delivery.idempotency import Done, Idempotency, Once, StoredReply, check_key, fingerprint_of, scope_of
from ..delivery.outbox import Origin, Outbox
from ..delivery.tx import Tx
from ..errors import Conflict, MillstreamError
from ..ids import Ids
from ..ports.instrumentation import Instrumentation, Labels
from ..ports.store import Session, Store
from ..resilience.deadline import DeadlineExceeded
from ..service.route import Route
from .auth import Authenticate, bearer_token
from .limits import ClientGone, Limits, client_timeout, read_body
from .parameters import Plan
from .problems import Problem, problem_of
from .replies import Answer, answer_of, is_final, of_problem, of_stored, to_stored
from .requests import Incoming

__all__ = ["Edge", "Endpoint", "Work"]

KEY_HEADER = b"idempotency-key"
_TRACEPARENT = re.compile(rb"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")
_JSON_TYPE = re.compile(rb"(?i)application/(?:[a-z0-9.+-]+\+)?json\s*(?:;\s*charset=\"?utf-8\"?\s*)?")


class Edge(msgspec.Struct, frozen=True, eq=False):
    """What all endpoints of an application share."""

    authenticate: Authenticate | None
    clock: Clock
    ids: Ids
    instrumentation: Instrumentation
    limits: Limits


class Work(msgspec.Struct, frozen=True, eq=False):
    """What one service's endpoints share."""

    service: str
    store: Store
    origin: Origin
    idempotency: Idempotency


class Endpoint:
    """A route, planned and bound."""

    def __init__(self, edge: Edge, work: Work, route: Route, plan: Plan) -> None:
        self.route = route
        self.plan = plan
        self.service = work.service
        self._edge = edge
        self._work = work
        self._handler = route.handler
        self._operation = f"{route.method} {route.path}"
        self._labels: Labels = (("service", work.service), ("method", route.method), ("route", route.path))
        self._counted: dict[int, Labels] = {n: (*self._labels, ("status", f"{n}xx")) for n in range(1, 6)}
        self._span = {"service": work.service, "method": route.method, "route": route.path}

    async def answer(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        headers: dict[bytes, bytes],
        values: tuple[str, ...],
        request_id: str,
    ) -> Answer | None:
        """The reply to a request; None when the client went away before it had asked."""
        edge = self._edge
        began = edge.clock.monotonic()
        trace = headers.get(b"traceparent")
        parent = trace.decode() if trace is not None and _TRACEPARENT.fullmatch(trace) else None
        span = edge.instrumentation.span("millstream.http.request", parent, **self._span)
        with span as traceparent:
            try:
                answer = await self._judge(scope, receive, headers, values, request_id, traceparent)
            except ClientGone:
                return None
            except Exception as error:  # noqa: BLE001 - the edge: every error becomes a recorded problem
                answer = of_problem(self._problem(error, request_id))
            span.set(status=answer.status)
        edge.instrumentation.count("millstream_http_requests_total", self._counted[answer.status // 100])
        edge.instrumentation.observe("millstream_http_request_seconds", self._labels, edge.clock.monotonic() - began)
        return answer

    def _problem(self, error: Exception, request_id: str) -> Problem:
        problem = problem_of(error)
        if problem.status == 500:
            self._edge.instrumentation.log(
                "error",
                "http_handler_failed",
                service=self.service,
                route=self._operation,
                request_id=request_id,
                error=type(error).__name__,
                message=str(error)[:300],
                at=_innermost(error),
            )
        return problem

    async def _judge(
        self,
        scope: Any,
        receive: Callable[[], Awaitable[Any]],
        headers: dict[bytes, bytes],
        values: tuple[str, ...],
        request_id: str,
        traceparent: str | None,
    ) -> Answer:
        edge = self._edge
        asked = client_timeout(headers)
        seconds = edge.limits.request_seconds if asked is None else min(asked, edge.limits.request_seconds)
        if seconds <= 0.0:
            raise Problem(504, "the deadline was over when the request arrived", problem="deadline-exceeded")
        reading = False
        try:
            with TimeLimit(edge.clock, seconds):
                # Only what the client asked for travels on: our own limit says nothing about who waits how long.
                deadline_us = None if asked is None else edge.clock.now_us() + round(seconds * 1e6)
                caller = await self._caller(headers, deadline_us, traceparent, request_id)
                incoming = Incoming(scope, headers, values, caller)
                if self.plan.body is not None:
                    reading = True
                    incoming.raw = await self._body(receive, headers)
                    reading = False
                    if self.plan.decode is not None:
                        incoming.body = self.plan.decode(incoming.raw)
                return await self._run(incoming)
        except DeadlineExceeded as error:
            if reading:
                raise Problem(408, "the request did not arrive in time", headers={"connection": "close"}) from None
            raise problem_of(error) from None

    async def _caller(
        self, headers: dict[bytes, bytes], deadline_us: int | None, traceparent: str | None, request_id: str
    ) -> Caller:
        route = self.route
        subject, roles, tenant = "", (), None
        token = bearer_token(headers.get(b"authorization"), required=not route.public)
        if token is not None and self._edge.authenticate is not None:
            identity = await self._edge.authenticate(token)
            subject, roles, tenant = identity.subject, identity.roles, identity.tenant
            if route.roles and not any(role in roles for role in route.roles):
                raise Problem(403, f"this needs one of the roles {', '.join(route.roles)}", problem="missing-role")
        key = None
        if route.idempotent:
            given = headers.get(KEY_HEADER)
            key = check_key(None if given is None else given.decode("latin-1"), "the header Idempotency-Key")
        return Caller(subject, roles, tenant, key, deadline_us, traceparent, request_id)

    async def _body(self, receive: Callable[[], Awaitable[Any]], headers: dict[bytes, bytes]) -> bytes:
        typed = self.plan.decode is not None
        if headers.get(b"content-encoding", b"identity") != b"identity":
            raise Problem(415, "encoded bodies are not read; send it plain", headers={"accept-encoding": "identity"})
        kind = headers.get(b"content-type")
        if typed and kind is not None and kind != b"application/json" and _JSON_TYPE.fullmatch(kind) is None:
            raise Problem(415, "send the body as application/json, in UTF-8", headers={"accept": "application/json"})
        body = await read_body(receive, headers, self._edge.limits.body_bytes)
        if typed and not body:
            if b"content-length" not in headers and b"transfer-encoding" not in headers:
                raise Problem(411, "a body is required: send it with Content-Length, or chunked")
            raise Problem(400, "a body is required", problem="malformed-body")
        return body

    async def _run(self, incoming: Incoming) -> Answer:
        arguments = [fill(incoming) for fill in self.plan.fills]
        if self.plan.tx_at < 0:
            return answer_of(await self._handler(*arguments))
        if self.route.idempotent:
            return await self._once(incoming, arguments)
        caller = incoming.caller

        async def unit(session: Session) -> Answer:
            answer, outbox = await self._in_tx(session, arguments, caller)
            await outbox.flush(session)
            return answer

        return await self._work.store.transact(unit)

    async def _in_tx(self, session: Session, arguments: list[Any], caller: Caller) -> tuple[Answer, Outbox]:
        outbox = Outbox(self._work.origin)
        given = arguments.copy()
        given[self.plan.tx_at] = Tx(session, outbox, self._edge.clock.now_us(), caller)
        answer = answer_of(await self._handler(*given))
        if answer.response is not None:
            raise TypeError("a handler with a Tx returns its body, not a response: it is sent after the commit")
        await session.flush()
        return answer, outbox

    async def _once(self, incoming: Incoming, arguments: list[Any]) -> Answer:
        caller, scope = incoming.caller, incoming.scope
        assert caller.idempotency_key is not None
        fingerprint = fingerprint_of(
            scope["path"].encode("utf-8", "surrogatepass"), scope["query_string"], incoming.raw
        )
        once = Once(scope_of(self._operation, caller), caller.idempotency_key, fingerprint)

        async def work(session: Session) -> Done:
            answer, outbox = await self._in_tx(session, arguments, caller)
            return Done(to_stored(answer), outbox, is_final(answer.status))

        stored, replayed = await self._work.idempotency.run(once, work, _refusal)
        return of_stored(stored, replayed=replayed)


def request_id_of(headers: dict[bytes, bytes], ids: Ids) -> str:
    """The correlation id that the client gave, where it is one, else a new one."""
    given = headers.get(b"x-request-id")
    return given.decode() if given is not None and _REQUEST_ID.fullmatch(given) else ids.new()


def _refusal(error: MillstreamError) -> StoredReply | None:
    if isinstance(error, Conflict):  # what it collided with may be gone next time
        return None
    problem = problem_of(error)
    return to_stored(of_problem(problem)) if is_final(problem.status) else None


def _innermost(error: BaseException) -> str:
    trace = error.__traceback__
    if trace is None:
        return ""
    while trace.tb_next is not None:
        trace = trace.tb_next
    return f"{'/'.join(trace.tb_frame.f_code.co_filename.split('/')[-2:])}:{trace.tb_lineno}"
