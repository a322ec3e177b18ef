"""What the admin API works on, and what its endpoints share: reading a request and replying."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ..caller import Caller
from ..clock import Clock, seconds
from ..delivery.operations_api import Operations
from ..ids import Ids
from ..ports.transport import Transport
from ..service.topics import TopicUse
from .problems import Problem

__all__ = [
    "AdminSystem",
    "Endpoint",
    "Stopping",
    "body_of",
    "operations_of",
    "query_of",
    "reply",
    "seconds_ago",
]

T = TypeVar("T")


class Stopping(Protocol):
    """A signal that the process shuts down, for instance an `asyncio.Event`."""

    async def wait(self) -> object:
        """Return once it does."""
        ...


@dataclass(frozen=True)
class AdminSystem:
    """What the admin API works on; the runtime puts it together.

    admin_token: accepted besides operators' tokens; empty accepts none. verify: a bearer token's caller, or raises
    `Unauthenticated`. stopping: ends the streams when the process shuts down.
    """

    operations: Mapping[str, Operations]
    transport: Transport
    topics: tuple[TopicUse, ...]
    clock: Clock
    ids: Ids
    verify: Callable[[str], Awaitable[Caller]]
    admin_token: str = ""
    beyond_loopback: bool = False
    stopping: Stopping = field(default_factory=asyncio.Event)


Endpoint = Callable[[AdminSystem, Request], Awaitable[Response]]


def reply(body: object, status: int = 200) -> Response:
    """A JSON reply."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")


async def body_of(request: Request, kind: type[T]) -> T:
    """The decoded body; a problem names what is wrong with it."""
    try:
        return msgspec.json.decode(await request.body(), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(422, str(error)) from error


def query_of(request: Request, kind: type[T]) -> T:
    """The query parameters as a struct; unknown ones are refused. A repeated one makes a list."""
    pairs = request.query_params
    values = {name: pairs.getlist(name) if name == "ids" else pairs[name] for name in pairs}
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Problem(422, str(error)) from error


def operations_of(system: AdminSystem, service: str | None) -> list[Operations]:
    """The service of this name, or all of them by name."""
    if service is None:
        return [system.operations[name] for name in sorted(system.operations)]
    found = system.operations.get(service)
    if found is None:
        known = ", ".join(sorted(system.operations))
        raise Problem(404, f"no service {service!r} runs here; there are: {known}")
    return [found]


def seconds_ago(system: AdminSystem, duration: str | None) -> int | None:
    """The moment that lies a duration back, in microseconds; None where none is given."""
    return None if duration is None else system.clock.now_us() - round(seconds(duration) * 1e6)
