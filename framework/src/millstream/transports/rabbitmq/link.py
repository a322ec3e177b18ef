"""A connection that is made when it is needed and made again when it was lost, and the translation of what goes wrong.

It never tries on its own: whoever calls gets a connection within the time limit, or the reason why there is none. So an
outage is seen by everybody who needs the broker, and nobody waits behind a loop that hides it. Nothing here knows
streams; an intake of somebody's queue can use it as it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import final

from ...clock import Clock
from ...errors import MillstreamError, Misconfigured, TransportUnavailable
from .connection import Channel, Closed, Connection, Listener, Login, RefusedByServer, connect

__all__ = ["PRECONDITION_FAILED", "Address", "Link", "no_queue", "translated"]

Address = tuple[str, int]

ACCESS_REFUSED, NOT_FOUND, PRECONDITION_FAILED, NOT_ALLOWED = 403, 404, 406, 530
_FOR_GOOD = {
    ACCESS_REFUSED: "check user and password in the URL, and the user's permissions (rabbitmqctl set_permissions)",
    NOT_ALLOWED: "check the virtual host in the URL, and that the user may enter it",
}


@final
class Link:
    """purpose: shows in the broker's list of connections. timeout, heartbeat: seconds."""

    def __init__(
        self,
        addresses: Sequence[Address],
        login: Login,
        *,
        purpose: str,
        timeout: float,
        heartbeat: float,
        clock: Clock,
    ) -> None:
        self._addresses = list(addresses)
        self._login = login
        self._purpose = purpose
        self._heartbeat = heartbeat
        self._clock = clock
        self._lock = asyncio.Lock()
        self._connection: Connection | None = None
        self._failure: tuple[float, MillstreamError] = (float("-inf"), TransportUnavailable(""))
        self._open = False
        self.timeout = timeout

    def open(self) -> None:
        """From now on it may connect."""
        self._open = True

    async def close(self) -> None:
        """Everybody under way gets an error, and nobody gets a connection any more."""
        self._open = False
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()

    def check_open(self) -> None:
        """Raises:
        TransportUnavailable: this link was closed, or never opened.
        """
        if not self._open:
            raise TransportUnavailable("the RabbitMQ transport is closed")

    async def connection(self) -> Connection:
        """The connection, made now if there is none.

        Raises:
            TransportUnavailable: no broker answers, or the link is closed.
            Misconfigured: the broker does not let this user in.
        """
        self.check_open()
        connection = self._connection
        if connection is not None and connection.error is None:
            return connection
        asked = self._clock.monotonic()
        async with self._lock:
            self.check_open()
            if self._connection is not None and self._connection.error is None:
                return self._connection
            if self._failure[0] >= asked:
                raise self._failure[1]  # what we waited for has failed just now: it would for us
            connection = await self._connect()
            if not self._open:
                await connection.close()
                self.check_open()
            self._connection = connection
            return connection

    async def channel(self, listener: Listener) -> Channel:
        """A channel on the connection, within the time limit.

        Raises:
            TransportUnavailable, Misconfigured: as `connection`.
        """
        async with self.bounded("open a channel"):
            return await (await self.connection()).channel(listener)

    def abort(self, reason: str) -> None:
        """Cut the connection: it takes requests and answers nothing. The next caller makes a new one."""
        if self._connection is not None:
            self._connection.abort(reason)

    @asynccontextmanager
    async def bounded(self, doing: str) -> AsyncGenerator[None]:
        """A time limit for calls on this link; what goes wrong is translated. A broker that does not answer in time is
        cut off, because nothing sent to it later would be answered either."""
        limit = asyncio.timeout(self.timeout)
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise  # a shorter limit of the caller's
            self.abort(f"no answer for {self.timeout:g} s")
            raise TransportUnavailable(f"RabbitMQ did not answer in {self.timeout:g} s: {doing}") from None
        except Closed as error:
            raise translated(error, doing) from error

    async def _connect(self) -> Connection:
        reasons: list[str] = []
        share = self.timeout / len(self._addresses)
        for address in self._addresses:
            place = f"{address[0]}:{address[1]}"
            try:
                return await connect(
                    address,
                    self._login,
                    name=f"millstream {self._purpose}",
                    heartbeat=self._heartbeat,
                    timeout=share,
                    clock=self._clock,
                )
            except RefusedByServer as error:
                if error.code in _FOR_GOOD:
                    raise translated(error, f"connect to {place}") from error
                reasons.append(f"{place}: {error}")
            except TimeoutError:
                reasons.append(f"{place}: no answer in {share:g} s")
            except (Closed, OSError) as error:
                reasons.append(f"{place}: {error}")
        # The place that answered last is no better than the others: begin elsewhere next time.
        self._addresses.append(self._addresses.pop(0))
        failure = TransportUnavailable(f"RabbitMQ is away: {'; '.join(reasons)}")
        self._failure = (self._clock.monotonic(), failure)
        raise failure


def no_queue(error: Closed) -> bool:
    """Whether the server says that there is no such queue. The same code stands for a queue that exists and whose node is
    still starting."""
    return isinstance(error, RefusedByServer) and error.code == NOT_FOUND and "no queue" in error.text


def translated(error: Closed, doing: str) -> MillstreamError:
    """The port's error for one of the connection's: what the server refuses for good is configuration."""
    if isinstance(error, RefusedByServer) and error.code in _FOR_GOOD:
        return Misconfigured(f"RabbitMQ refuses to {doing}: {error.text}; {_FOR_GOOD[error.code]}")
    return TransportUnavailable(f"RabbitMQ: {doing}: {error}")
