"""Connections to one Redis server, and its errors in our words.

A call ends in bounded time, whatever the server does: it is answered, or it raises. Nothing is retried here: a caller
that publishes again does so knowingly. A call that is cancelled or runs out of time gives its connection up, since the
answer may still come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from hashlib import sha1
from typing import Any, Final, cast

import msgspec
from redis.asyncio import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import (
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from ...errors import TransportUnavailable

__all__ = ["Address", "Connections", "Script"]


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where the server is and as whom to enter. Shown as host and port only: the password stays out of every text."""

    host: str
    port: int
    database: int = 0
    user: str | None = None
    password: str | None = None
    tls: bool = False
    tls_ca: str | None = None

    def __str__(self) -> str:
        return f"redis at {self.host}:{self.port}"

    __repr__ = __str__


class Script:
    """Lua that runs in the server: one round trip, and nothing else runs in between."""

    __slots__ = ("sha", "text")

    def __init__(self, text: str) -> None:
        self.text: Final = text
        self.sha: Final = sha1(text.encode(), usedforsecurity=False).hexdigest()


class Connections:
    """A few connections that take turns.

    limit: how many calls are under way at once; further ones queue up. timeout: seconds after which a call gives up.
    """

    def __init__(self, address: Address, *, limit: int, timeout: float) -> None:
        self.address = address
        self.timeout = timeout
        self._places = asyncio.Semaphore(limit)
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._closed = False

    async def call(self, *command: str | bytes | int) -> Any:
        """The answer to one command.

        Raises:
            TransportUnavailable: no answer in time; whether the command ran is unknown.
            ResponseError: the server refused it.
        """
        try:
            async with asyncio.timeout(self.timeout), self._places:
                self._check_open()
                connection = self._idle.pop() if self._idle else self.new()
                self._busy.add(connection)
                try:
                    return await self.ask(connection, *command)
                finally:
                    self._busy.discard(connection)
                    if connection.is_connected and not self._closed:
                        self._idle.append(connection)
        except TimeoutError as error:
            raise TransportUnavailable(f"{self.address}: no answer in {self.timeout:g} s") from error

    async def do(self, *command: str | bytes | int) -> Any:
        """The answer to a command that the server should not refuse.

        Raises:
            TransportUnavailable: no answer in time, or the server cannot do it now.
        """
        try:
            return await self.call(*command)
        except ResponseError as error:
            raise TransportUnavailable(f"{self.address}: {_meaning(error)}") from error

    async def run(self, script: Script, keys: Sequence[str], *arguments: str | bytes | int) -> Any:
        """What a script returns. The server may have forgotten it (a restart, another node): then it is sent again.

        Raises:
            TransportUnavailable: no answer in time, or the server cannot do it now.
        """
        try:
            return await self.call("EVALSHA", script.sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await self.do("EVAL", script.text, len(keys), *keys, *arguments)
        except ResponseError as error:
            raise TransportUnavailable(f"{self.address}: {_meaning(error)}") from error

    def new(self) -> Connection:
        """A connection for one user alone; connects with its first `ask`. The user disconnects it."""
        where = self.address
        options: dict[str, Any] = {
            "host": where.host,
            "port": where.port,
            "db": where.database,
            "username": where.user,
            "password": where.password,
            "client_name": "millstream",
            "protocol": 2,
            "retry": Retry(NoBackoff(), 0),
            "socket_timeout": None,  # a task and a timer for every write; the limit stands around the whole call
            "socket_connect_timeout": self.timeout,
            "socket_keepalive": True,
        }
        if where.tls:
            return SSLConnection(**options, ssl_ca_certs=where.tls_ca)
        return Connection(**options)

    async def ask(self, connection: Connection, *command: str | bytes | int) -> Any:
        """The answer on one connection, which is given up unless the answer came whole. Waits without a limit."""
        try:
            if not connection.is_connected:
                await connection.connect()
            await connection.send_command(*command)
            return cast(Any, await connection.read_response())
        except ResponseError:
            raise
        except (
            RedisError,
            OSError,
            RuntimeError,
        ) as error:  # RuntimeError: uvloop's, of a connection that is closed by now
            await connection.disconnect(nowait=True)
            await self._drop_idle()
            raise TransportUnavailable(
                f"{self.address}: " + ("this log is closed" if self._closed else f"{error}")
            ) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise

    async def close(self) -> None:
        """End every connection; calls under way raise TransportUnavailable. Idempotent."""
        self._closed = True
        await self._drop_idle()
        for connection in list(self._busy):
            await connection.disconnect(nowait=True)

    def _check_open(self) -> None:
        if self._closed:
            raise TransportUnavailable(f"{self.address}: this log is closed")

    async def _drop_idle(self) -> None:
        # When one connection broke, those that lie idle most likely did as well: found out one by one, each would cost
        # a caller its call.
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)


_MEANING: dict[type[ResponseError], str] = {
    OutOfMemoryError: "maxmemory is reached: give it more, or let subscriptions catch up so that retention can delete",
    ReadOnlyError: "it is a replica now: name the primary in the URL",
    NoPermissionError: "the user of the URL needs EVAL, EVALSHA, INFO, CLIENT, XREAD and all keys of the prefix",
}


def _meaning(error: ResponseError) -> str:
    means = _MEANING.get(type(error))
    return f"{error} ({means})" if means else str(error)
