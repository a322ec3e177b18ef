"""The side that serves: every method of a dispatcher over gRPC, with health and reflection, for any gRPC client.

Who may call:

- another service of the system, for the caller named in its passport, once that is proved (`passport.py`);
- any client that has only the `.proto` files, with `authorization: Bearer …` of a service account: contracts are what
  services tell each other, so the token needs one of `client_roles`. The idempotency key is the metadata
  `idempotency-key`, the correlation id `x-request-id`, the trace `traceparent`.

Everybody else gets `UNAUTHENTICATED`, also somebody with a passport that is not proved. Health (grpc.health.v1, for the
server and for each service) and reflection answer without.

A deadline (`grpc-timeout`) ends the work when nobody waits for it any more; what was committed by then stays.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from ..caller import Caller
from ..clock import Clock
from ..contracts.dispatch import Answer, Dispatcher
from ..contracts.errors import rpc_error_of
from ..contracts.rich_status import DETAILS_TRAILER, decode_error, encode_error
from ..contracts.time_limit import TimeLimit
from ..errors import Busy, Misconfigured
from ..http.auth import bearer_token
from ..http.problems import Problem
from ..resilience.deadline import DeadlineExceeded
from ..service.contract import RpcError, Status
from .driver import METADATA_BYTES, add_health, add_reflection, aio, code_of, grpc, health_library, size_options
from .passport import PASSPORT, PROOF, Trust, read_passport, unauthenticated
from .tls import Certificates

__all__ = ["GrpcServer", "ServerOptions"]

ENDLESS_SECONDS = 86_400.0
"""A deadline further away is none."""


@dataclass(frozen=True)
class ServerOptions:
    """body_bytes: the largest request and answer, as at the HTTP edge. in_flight: calls at once, those beyond get
    `UNAVAILABLE` at once instead of waiting behind others. client_roles: what a bearer token needs; empty accepts none. reflection: whether clients may
    ask which methods there are.
    """

    body_bytes: int = 1_048_576
    in_flight: int = 1_024
    client_roles: tuple[str, ...] = ("service",)
    reflection: bool = True


class GrpcServer:
    """Serves one address. `start`, then `drain` when a shutdown begins, then `close`.

    authenticate: from a bearer token to its caller; raises a 401 problem for one that proves nobody.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        trust: Trust,
        authenticate: Callable[[str], Awaitable[Caller]],
        clock: Clock,
        *,
        certificates: Certificates | None = None,
        options: ServerOptions = ServerOptions(),
    ) -> None:
        self._dispatcher = dispatcher
        self._trust = trust
        self._authenticate = authenticate
        self._clock = clock
        self._certificates = certificates
        self._options = options
        self._server: Any = None
        self._health: Any = None
        self.in_flight = 0
        """Calls under way."""
        self.port = 0
        """Where it listens, once started."""

    async def start(self, host: str, port: int) -> None:
        """Listen; returns once calls are accepted. Port 0 takes a free one.

        Raises:
            Misconfigured: the address is in use, not ours, or beyond loopback without TLS.
        """
        options = self._options
        self._server = aio.server(
            options=[
                *size_options(options.body_bytes),
                # Clients ask on an idle connection whether the other side still lives; that is no abuse.
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.keepalive_time_ms", 30_000),
                ("grpc.keepalive_timeout_ms", 10_000),
            ],
            # Ours is counted in `_Method`; this one also counts the streams of those who watch our health.
            maximum_concurrent_rpcs=2 * options.in_flight + 64,
        )
        self._server.add_generic_rpc_handlers((_Methods(self._handlers()),))
        await self._add_health()
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            if self._certificates is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, self._certificates.for_server())
        except RuntimeError as error:
            raise Misconfigured(f"grpc.listen: cannot listen on {address}: {error}") from error
        await self._server.start()

    async def drain(self) -> None:
        """Health says NOT_SERVING from now on, so that clients choose another worker; calls are still answered."""
        await self._health.enter_graceful_shutdown()

    async def close(self, seconds: float) -> None:
        """Accept nothing new; calls under way get their answers, for at most `seconds`. Then they are cancelled."""
        if self._server is not None:
            await self._server.stop(seconds)
            self._server = None

    @property
    def full(self) -> bool:
        """Whether as many calls are under way as may be."""
        return self.in_flight >= self._options.in_flight

    def _handlers(self) -> dict[str, Any]:
        return {
            f"/{service}/{method}": grpc.unary_unary_rpc_method_handler(_Method(self, service, method).serve)
            for service, method in self._dispatcher.methods
        }

    async def _add_health(self) -> None:
        health, messages = health_library()
        names = sorted({service for service, _ in self._dispatcher.methods})
        self._health = health.aio.HealthServicer()
        for name in names:
            await self._health.set(name, messages.HealthCheckResponse.SERVING)
        add_health(self._health, self._server)
        if self._options.reflection:
            add_reflection([*names, health.SERVICE_NAME], self._server)

    async def answer(self, service: str, method: str, request: bytes, context: Any) -> Answer:
        """One call, from metadata to answer. Never raises but for a cancellation."""
        try:
            remaining = _remaining(context)
            limit = nullcontext() if remaining is None else TimeLimit(self._clock, remaining)
            with limit:
                caller = await self._caller(service, method, request, context, remaining)
                return await self._dispatcher.answer(service, method, request, caller)
        except RpcError as error:
            return _refused(error)
        except DeadlineExceeded as error:
            return _refused(rpc_error_of(error))

    async def _caller(self, service: str, method: str, request: bytes, context: Any, remaining: float | None) -> Caller:
        metadata: dict[str, Any] = dict(context.invocation_metadata() or ())
        now_us = self._clock.now_us()
        deadline_us = None if remaining is None else now_us + round(remaining * 1e6)
        trace = _text(metadata, "traceparent")
        passport: bytes | None = metadata.get(PASSPORT)
        if passport is not None:
            proof: bytes | None = metadata.get(PROOF)
            self._trust.check(f"/{service}/{method}", passport, request, proof, context.auth_context(), now_us)
            return read_passport(passport, deadline_us, trace)
        return await self._client(metadata, deadline_us, trace)

    async def _client(self, metadata: dict[str, Any], deadline_us: int | None, trace: str | None) -> Caller:
        """A client with a token of its own."""
        authorization = _text(metadata, "authorization")
        try:
            token = bearer_token(None if authorization is None else authorization.encode(), required=True)
            found = await self._authenticate(token or "")
        except Problem as problem:
            if problem.status == 401:
                raise unauthenticated(str(problem)) from None
            raise RpcError(Status.UNAVAILABLE, str(problem)) from None
        if not any(found.may(role) for role in self._options.client_roles):
            needed = ", ".join(self._options.client_roles) or "(none: tokens are not accepted here)"
            raise RpcError(Status.PERMISSION_DENIED, f"this needs one of the roles {needed}", problem="missing-role")
        key, request_id = _text(metadata, "idempotency-key"), _text(metadata, "x-request-id")
        return Caller(found.subject, found.roles, found.tenant, key, deadline_us, trace, request_id)


class _Method:
    """One method, as the driver calls it."""

    def __init__(self, server: GrpcServer, service: str, method: str) -> None:
        self._server = server
        self._service = service
        self._method = method

    async def serve(self, request: bytes, context: Any) -> bytes:
        server = self._server
        if server.full:
            await _abort(context, BUSY)
        server.in_flight += 1
        try:
            answer = await server.answer(self._service, self._method, request, context)
        finally:
            server.in_flight -= 1
        if answer.status == Status.OK:
            return answer.body
        await _abort(context, answer)
        raise AssertionError("abort returns to nobody")


class _Methods(grpc.GenericRpcHandler):
    """Finds a method by its path: bytes come in and go out, the dispatcher knows what they mean."""

    def __init__(self, handlers: dict[str, Any]) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: Any) -> Any:
        return self._handlers.get(handler_call_details.method)


async def _abort(context: Any, answer: Answer) -> None:
    await context.abort(code_of(answer.status), answer.message, ((DETAILS_TRAILER, _fitting(answer)),))


def _remaining(context: Any) -> float | None:
    remaining: float | None = context.time_remaining()
    return None if remaining is None or remaining > ENDLESS_SECONDS else max(0.0, remaining)


def _text(metadata: dict[str, Any], name: str) -> str | None:
    value = metadata.get(name)
    return value if isinstance(value, str) else None


def _refused(error: RpcError) -> Answer:
    return Answer(error.status, encode_error(error), error.message)


BUSY = _refused(rpc_error_of(Busy("too many calls are under way; come back a little later")))


def _fitting(answer: Answer) -> bytes:
    """The details of an error; without its list of places where that is more than metadata may be."""
    if len(answer.body) <= METADATA_BYTES // 2:
        return answer.body
    error = decode_error(answer.status, answer.message, answer.body)
    short = RpcError(error.status, error.message[:1_000], problem=error.problem, retry_after=error.retry_after)
    return encode_error(short)
