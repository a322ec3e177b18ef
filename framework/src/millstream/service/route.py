"""What a service declares about its HTTP edge. Declaring opens no port; the runtime builds the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

import msgspec

__all__ = ["Accepted", "Created", "Reply", "Route"]

B = TypeVar("B")


class Reply(Generic[B]):
    """A body with a status and headers of its own. Handlers may as well return the body alone (200)."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, body: B, *, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self.body = body
        self.status = status
        self.headers = headers or {}


class Created(Reply[B]):
    """201 with a `Location`."""

    __slots__ = ()

    def __init__(self, body: B, *, location: str) -> None:
        super().__init__(body, status=201, headers={"location": location})


class Accepted(Reply[B]):
    """202: the work goes on behind the reply."""

    __slots__ = ()

    def __init__(self, body: B, *, location: str | None = None) -> None:
        super().__init__(body, status=202, headers={"location": location} if location else {})


class Route(msgspec.Struct, frozen=True, eq=False):
    """One HTTP operation.

    path: segments in braces are parameters of the handler by name: `/orders/{order_id}`.
    idempotent: the request must carry an `Idempotency-Key`; the reply is stored with the work and repeated byte for
        byte. Only for handlers that take a `Tx`, or that pass the key on to another service (`forwards_key`).
    public: no token needed; one that is sent must still hold. roles: the caller must hold one of these.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Any]]
    idempotent: bool = False
    forwards_key: bool = False
    public: bool = False
    roles: tuple[str, ...] = ()
    summary: str = ""
