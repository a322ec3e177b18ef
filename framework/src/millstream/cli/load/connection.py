"""An HTTP/1.1 client that costs little: it shares the machine with the server that it measures.

Requests are bytes built beforehand; a connection carries one at a time and is kept open. Only what the server of this
project sends is understood: replies with a `Content-Length`. Anything else is an error that says so.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Mapping
from time import perf_counter
from typing import NamedTuple, cast
from urllib.parse import urlsplit

import msgspec

from ...errors import Misconfigured, Permanent

__all__ = ["Address", "Connection", "Reply", "UnexpectedReply", "build_request"]

NEVER_BODY = (204, 304)


class UnexpectedReply(Permanent):
    """The other side does not speak the HTTP that this client understands."""


class Address(msgspec.Struct, frozen=True):
    """Where the system answers."""

    host: str
    port: int
    tls: bool = False

    @classmethod
    def of(cls, url: str) -> Address:
        """Raises `Misconfigured` for what is no http(s) address."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Misconfigured(f"--url {url!r}: write it as http://host:port")
        tls = parts.scheme == "https"
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls)


class Reply(NamedTuple):
    """Status and body."""

    status: int
    body: bytes


def build_request(
    address: Address, method: str, path: str, token: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of a request."""
    lines = [f"{method} {path} HTTP/1.1", f"host: {address.host}:{address.port}", f"authorization: Bearer {token}"]
    if body:
        lines += ["content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Connection(asyncio.Protocol):
    """One connection; `open` it, then `request` one after the other. `busy_since` is 0 while it waits for nothing."""

    __slots__ = ("_buffer", "_closing", "_transport", "_waiter", "busy_since", "loop")

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.busy_since = 0.0
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._buffer = b""
        self._closing = False

    @classmethod
    async def open(cls, address: Address) -> Connection:
        """Raises `OSError` when nobody answers."""
        context = ssl.create_default_context() if address.tls else None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, address.host, address.port, ssl=context)
        return connection

    @property
    def usable(self) -> bool:
        """Whether another request can be sent."""
        return not self._closing and self._transport is not None and not self._transport.is_closing()

    async def request(self, data: bytes) -> Reply:
        """Send a request and wait for its reply.

        Raises:
            ConnectionError: the connection ended first; whether the server has done the work is unknown.
            UnexpectedReply: the reply is none that this client understands.
        """
        if not self.usable or self._transport is None:
            raise ConnectionResetError("the connection is closed")
        self._waiter = self.loop.create_future()
        self.busy_since = perf_counter()
        self._transport.write(data)
        try:
            return await self._waiter
        finally:
            self.busy_since = 0.0
            self._waiter = None

    def abort(self) -> None:
        """Give up on it at once."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    # -- asyncio.Protocol ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        self._fail(ConnectionResetError("the server closed the connection"))

    def data_received(self, data: bytes) -> None:
        content = self._buffer + data if self._buffer else data
        end = content.find(b"\r\n\r\n")
        if end < 0:
            self._buffer = content
            return
        head = content[: end + 2].lower()
        try:
            status = int(head[9:12])
            length = _length(head, status)
        except ValueError:
            self._fail(UnexpectedReply(f"not understood: {head[:80]!r}"))
            self.abort()
            return
        if len(content) < end + 4 + length:
            self._buffer = content
            return
        self._buffer = b""
        if b"\r\nconnection: close" in head:
            self._closing = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(Reply(status, content[end + 4 : end + 4 + length]))

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)


def _length(head: bytes, status: int) -> int:
    """The body's length; raises `ValueError` where the head does not say."""
    at = head.find(b"\r\ncontent-length:")
    if at < 0:
        if status in NEVER_BODY:
            return 0
        raise ValueError
    return int(head[at + 17 : head.index(b"\r\n", at + 17)])
