"""Contracts: what one service calls of another, generated from `proto/` and used through a typed client.

```python
class Orders(Contract, service="millstream.orders.v1.OrdersService"):
    place_order = rpc("PlaceOrder", PlaceOrderRequest, PlaceOrderResponse)


@orders.rpc(Orders.place_order, idempotent=True)  # the service that owns the work
async def place_order(request: PlaceOrderRequest, caller: Caller, tx: Tx) -> PlaceOrderResponse: ...


@gateway.post("/orders", idempotent=True, forwards_key=True)  # the one that calls
async def post_order(body: NewOrder, caller: Caller, orders: Orders) -> Created[Order]:
    placed = await orders.place_order(request, caller=caller)
```

In one process the call passes the same bytes, deadlines and errors as it does over gRPC: a service cannot come to
depend on sharing memory with another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar, overload

import msgspec

from ..caller import Caller
from ..errors import MillstreamError, Misconfigured

__all__ = ["Channel", "Contract", "Rpc", "RpcError", "RpcMethod", "Status", "WireMessage", "rpc"]


class WireMessage(Protocol):
    """A generated protobuf message."""

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...  # noqa: N802 - protobuf's name

    @classmethod
    def FromString(cls, s: bytes) -> Self: ...  # noqa: N802 - protobuf's name


Req = TypeVar("Req", bound=WireMessage)
Res = TypeVar("Res", bound=WireMessage)


class Status:
    """gRPC's status codes that Millstream uses (grpc/status.proto), by number."""

    OK: ClassVar[int] = 0
    CANCELLED: ClassVar[int] = 1
    UNKNOWN: ClassVar[int] = 2
    INVALID_ARGUMENT: ClassVar[int] = 3
    DEADLINE_EXCEEDED: ClassVar[int] = 4
    NOT_FOUND: ClassVar[int] = 5
    ALREADY_EXISTS: ClassVar[int] = 6
    PERMISSION_DENIED: ClassVar[int] = 7
    RESOURCE_EXHAUSTED: ClassVar[int] = 8
    FAILED_PRECONDITION: ClassVar[int] = 9
    ABORTED: ClassVar[int] = 10
    UNIMPLEMENTED: ClassVar[int] = 12
    INTERNAL: ClassVar[int] = 13
    UNAVAILABLE: ClassVar[int] = 14
    UNAUTHENTICATED: ClassVar[int] = 16


class RpcError(MillstreamError):
    """A call's refusal: a gRPC status code, a message for people and a machine-readable reason.

    A method raises it to refuse; a client raises the same. `problem` becomes the `type` of the HTTP error at the edge,
    `errors` its list of places (`{"at": "lines[3].quantity", "message": "must be at least 1"}`).
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        problem: str = "",
        errors: tuple[dict[str, str], ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.problem = problem
        self.errors = errors
        self.retry_after = retry_after


class Channel(Protocol):
    """Carries calls: in process now, gRPC between processes. Bytes in, bytes out."""

    async def call(self, service: str, method: str, request: bytes, caller: Caller, timeout: float) -> bytes:
        """One unary call.

        Raises:
            RpcError: with `DEADLINE_EXCEEDED` after `timeout` seconds, `UNAVAILABLE` when nobody serves it.
        """
        ...


class RpcMethod(msgspec.Struct, frozen=True, eq=False):
    """A contract's method as its owner declared to serve it."""

    service: str
    method: str
    request: type[Any]
    response: type[Any]
    handler: Callable[..., Awaitable[Any]]
    idempotent: bool = False


class Rpc(Generic[Req, Res]):
    """A method of a contract. On the class: what `Service.rpc` takes. On a client: the call."""

    def __init__(self, name: str, request: type[Req], response: type[Res]) -> None:
        self.name = name
        self.request = request
        self.response = response
        self.contract: type[Contract] | None = None

    def __set_name__(self, owner: type[Contract], attribute: str) -> None:
        self.contract = owner

    @overload
    def __get__(self, instance: None, owner: type[Contract]) -> Rpc[Req, Res]: ...

    @overload
    def __get__(self, instance: Contract, owner: type[Contract]) -> Callable[..., Awaitable[Res]]: ...

    def __get__(
        self, instance: Contract | None, owner: type[Contract]
    ) -> Rpc[Req, Res] | Callable[..., Awaitable[Res]]:
        if instance is None:
            return self

        async def call(request: Req, *, caller: Caller, timeout: float = 10.0) -> Res:
            reply = await instance.channel.call(
                owner.service, self.name, request.SerializeToString(deterministic=True), caller, timeout
            )
            return self.response.FromString(reply)

        return call


def rpc(name: str, request: type[Req], response: type[Res]) -> Rpc[Req, Res]:
    """Declare a method of a contract by its name in the .proto file."""
    return Rpc(name, request, response)


class Contract:
    """Base of contracts. An instance is a client; the runtime makes it and hands it to whoever asks by type."""

    service: ClassVar[str] = ""

    def __init_subclass__(cls, *, service: str = "") -> None:
        if not service:
            raise Misconfigured(f'contract {cls.__name__}: name it: class {cls.__name__}(Contract, service="pkg.v1.X")')
        cls.service = service

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
