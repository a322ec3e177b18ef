"""The side of a contract that serves: from the bytes of a request to the bytes of an answer.

Used by the channel in one process and by the gRPC server alike, so that both answer the same. Everything about a
method is worked out when it is bound: what it takes, and whether it runs in a transaction.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import msgspec

from ..caller import Caller
from ..clock import Clock
from ..delivery.idempotency import Done, Idempotency, Once, StoredReply, check_key, fingerprint_of, scope_of
from ..delivery.outbox import Origin, Outbox
from ..delivery.tx import Query, Tx
from ..errors import MillstreamError, Misconfigured
from ..ports.instrumentation import Instrumentation
from ..ports.store import Session, Store
from ..service.contract import Contract, RpcError, RpcMethod, Status
from ..signature import Parameter, parameters_of, where
from .errors import FINAL_STATUSES, SERVER_FAULTS, rpc_error_of
from .rich_status import decode_error, encode_error

__all__ = ["Answer", "Dispatcher", "RpcBinding", "error_of"]


class RpcBinding(msgspec.Struct, frozen=True, eq=False):
    """The methods of one service, with what they run on. `resources` holds, by type, what handlers may ask for."""

    name: str
    methods: Sequence[RpcMethod]
    store: Store
    origin: Origin
    resources: Mapping[type[Any], object]


class Answer(msgspec.Struct, frozen=True):
    """How a call ended: a status of gRPC, and the reply's bytes, or a message and details (`rich_status`)."""

    status: int
    body: bytes
    message: str = ""


def error_of(answer: Answer) -> RpcError:
    """The error that a caller raises for an answer that is none of `OK`."""
    return decode_error(answer.status, answer.message, answer.body)


class Dispatcher:
    """Knows every method that this process serves, by `service/Method`."""

    def __init__(self, clock: Clock, instrumentation: Instrumentation) -> None:
        self._clock = clock
        self._instrumentation = instrumentation
        self._served: dict[tuple[str, str], _Served] = {}

    def serve(self, binding: RpcBinding) -> None:
        """Add a service's methods.

        Raises:
            Misconfigured: a method is served twice, or takes what nobody provides. Lists every problem.
        """
        problems: list[str] = []
        idempotency = Idempotency(binding.store, self._clock)
        for method in binding.methods:
            place = (method.service, method.method)
            if place in self._served:
                problems.append(f"{where(method.handler)}: {method.service}/{method.method} is served already")
                continue
            try:
                self._served[place] = _Served(binding, method, idempotency, self._clock, self._instrumentation)
            except Misconfigured as error:
                problems.extend(error.problems)
        if problems:
            raise Misconfigured(problems)

    @property
    def methods(self) -> Sequence[tuple[str, str]]:
        """(service, method) of all that is served, for a server that registers each."""
        return list(self._served)

    async def answer(self, service: str, method: str, request: bytes, caller: Caller) -> Answer:
        """Serve one call. Never raises but for a cancellation; deadlines are the channel's."""
        served = self._served.get((service, method))
        if served is None:
            known = any(name == service for name, _ in self._served)
            status = Status.UNIMPLEMENTED if known else Status.UNAVAILABLE
            return _refused(RpcError(status, f"nobody serves {service}/{method} here"))
        return await served.answer(request, caller)


class _Served:
    """One method, planned."""

    def __init__(
        self,
        binding: RpcBinding,
        method: RpcMethod,
        idempotency: Idempotency,
        clock: Clock,
        instrumentation: Instrumentation,
    ) -> None:
        self._name = f"{method.service}/{method.method}"
        self._place = where(method.handler)
        self._span = {"service": binding.name, "contract": method.service, "method": method.method}
        self._method = method
        self._store = binding.store
        self._origin = binding.origin
        self._idempotency = idempotency
        self._clock = clock
        self._instrumentation = instrumentation
        self._parse: Callable[[bytes], Any] = method.request.FromString
        self._request_at, self._caller_at, self._tx_at = -1, -1, -1
        self._contracts: list[str] = []
        self._arguments: list[Any] = []
        problems = [*self._plan(binding), *self._contradictions()]
        if problems:
            raise Misconfigured(problems)

    def _plan(self, binding: RpcBinding) -> list[str]:
        """Fill what is known now, remember the places of the rest; return what cannot be filled."""
        problems: list[str] = []
        query = Query(binding.store.query)
        for at, parameter in enumerate(parameters_of(self._method.handler)):
            kind = parameter.type
            self._arguments.append(query if kind is Query else binding.resources.get(kind))
            if kind is self._method.request:
                self._request_at = at
            elif kind is Caller:
                self._caller_at = at
            elif kind is Tx:
                self._tx_at = at
            elif kind in binding.resources:
                if isinstance(kind, type) and issubclass(kind, Contract):
                    self._contracts.append(kind.__name__)
            elif kind is not Query and parameter.required:
                problems.append(_cannot_fill(self._place, parameter, self._method))
            elif kind is not Query:
                self._arguments[at] = parameter.default
        return problems

    def _contradictions(self) -> list[str]:
        name = self._method.request.__name__
        # In a transaction no other service may be called (rule T3): say so now rather than at the first call.
        calls = f"takes a Tx and {', '.join(self._contracts)}; call it before, from a route or a saga step"
        says = (
            (self._request_at < 0, f"takes no {name}, the request of {self._name}"),
            (self._tx_at >= 0 and bool(self._contracts), calls),
            (self._method.idempotent and self._tx_at < 0, "idempotent=True stores the reply with the work: take a Tx"),
        )
        return [f"{self._place}: {what}" for wrong, what in says if wrong]

    async def answer(self, request: bytes, caller: Caller) -> Answer:
        try:
            with self._instrumentation.span("millstream.contract.serve", caller.traceparent, **self._span) as trace:
                if trace != caller.traceparent:
                    caller = msgspec.structs.replace(caller, traceparent=trace)
                try:
                    return Answer(Status.OK, await self._run(request, caller))
                except Exception as error:
                    refusal = rpc_error_of(error)
                    if refusal.status not in SERVER_FAULTS:
                        return _refused(refusal)
                    if refusal.status in (Status.INTERNAL, Status.UNKNOWN):
                        self._log(error, caller)
                    raise  # so that the span is marked as failed
        except Exception as error:  # noqa: BLE001 - the edge of a service: every error becomes a recorded status
            return _refused(rpc_error_of(error))

    def _log(self, error: Exception, caller: Caller) -> None:
        self._instrumentation.log(
            "error",
            "rpc_failed",
            method=self._name,
            error=type(error).__name__,
            message=str(error)[:300],
            handler=self._place,
            correlation_id=caller.correlation_id,
        )

    async def _run(self, request: bytes, caller: Caller) -> bytes:
        try:
            message = self._parse(request)
        except Exception as error:  # protobuf's DecodeError, whichever runtime generated the class
            raise RpcError(Status.INVALID_ARGUMENT, f"not a {self._method.request.__name__}") from error
        arguments = self._arguments.copy()
        arguments[self._request_at] = message
        if self._caller_at >= 0:
            arguments[self._caller_at] = caller
        handler = self._method.handler
        if self._tx_at < 0:
            return self._encode(await handler(*arguments))
        now_us = self._clock.now_us()

        async def work(session: Session) -> Done:
            outbox = Outbox(self._origin)
            given = arguments.copy()
            given[self._tx_at] = Tx(session, outbox, now_us, caller)
            body = self._encode(await handler(*given))
            await session.flush()
            return Done(StoredReply(Status.OK, body), outbox)

        if self._method.idempotent:
            return await self._once(request, caller, work)
        return await self._store.transact(_committed(work))

    async def _once(self, request: bytes, caller: Caller, work: Callable[[Session], Awaitable[Done]]) -> bytes:
        key = check_key(caller.idempotency_key, f"an idempotency key with {self._name}")
        once = Once(scope_of(self._name, caller), key, fingerprint_of(request))
        reply, _ = await self._idempotency.run(once, work, _refusal)
        if reply.status != Status.OK:
            message, details = msgspec.json.decode(reply.headers)[0][1], reply.body
            raise decode_error(reply.status, message, details)
        return reply.body

    def _encode(self, response: Any) -> bytes:
        if not isinstance(response, self._method.response):
            raise TypeError(
                f"{self._place} returned {type(response).__name__}, "
                f"{self._name} answers {self._method.response.__name__}"
            )
        return response.SerializeToString(deterministic=True)


def _committed(work: Callable[[Session], Awaitable[Done]]) -> Callable[[Session], Awaitable[bytes]]:
    async def unit(session: Session) -> bytes:
        done = await work(session)
        await done.outbox.flush(session)
        return done.reply.body

    return unit


def _refusal(error: MillstreamError) -> StoredReply | None:
    refusal = rpc_error_of(error)
    if refusal.status not in FINAL_STATUSES:
        return None
    return StoredReply(refusal.status, encode_error(refusal), _encode_message(refusal.message))


def _encode_message(message: str) -> str:
    return msgspec.json.encode([("grpc-message", message)]).decode()


def _refused(error: RpcError) -> Answer:
    return Answer(error.status, encode_error(error), error.message)


def _cannot_fill(place: str, parameter: Parameter, method: RpcMethod) -> str:
    name = getattr(parameter.type, "__name__", str(parameter.type))
    return (
        f"{place}: nobody provides {parameter.name}: {name}. A method takes its request ({method.request.__name__}), "
        "Caller, Tx or Query, and resources and contracts of the service"
    )
