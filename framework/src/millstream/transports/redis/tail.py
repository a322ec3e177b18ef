"""Waiting for new records: one connection looks at the ends of all partitions for which a reader waits.

`XREAD BLOCK` takes any number of streams, so a process with sixty readers needs one connection for waiting instead of sixty.
When a reader joins, `CLIENT UNBLOCK` ends the look under way and the next one includes it. No wake-up is lost: a
look starts behind the position of every reader, so what came in between ends it at once.

The next look begins before the reader that was woken is back, so it covers that stream behind what the last one saw: at a
low rate the reader then finds itself covered already. Who finds the stream ahead of it again takes it out until it is back.

A reader that is woken reads for itself; what the look returned is dropped. So a wake-up without reason costs a read and
nothing else, and every few seconds all readers get one: they find out when a stream was lost.
"""

from __future__ import annotations

import asyncio
from typing import Any

from redis.asyncio import Connection
from redis.exceptions import ResponseError

from ...errors import TransportUnavailable
from .connections import Connections
from .entries import EPOCH, position_of

__all__ = ["Tail"]

BLOCK_MS = 5_000
"""How long one look waits; then every reader looks for itself."""
AGAIN_SECONDS = 0.001
"""An interrupt may overtake the look that it is for; this much later it is sent again."""


class Tail:
    """Who waits behind which position of which stream. Runs for as long as the log is open."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._waiting: dict[str, dict[asyncio.Future[None], int]] = {}
        self._covered: dict[str, int] = {}
        """Streams and positions of the look under way."""
        self._seen: dict[str, int] = {}
        """How far a stream had come whose readers were just woken."""
        self._changed = asyncio.Event()
        """A reader waits that the look under way does not cover, or that look has ended."""
        self._looking = False
        self._interrupted = False
        self._number = 0
        """What the server calls the connection that looks."""

    async def wait(self, stream: str, after: int) -> None:
        """Return when there may be something behind a position.

        Raises:
            TransportUnavailable: the server is away, or the log was closed.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(stream, {})[waiter] = after
        covered = self._covered.get(stream)
        if covered is None or covered > after:
            self._changed.set()
        try:
            await waiter
        finally:
            here = self._waiting.get(stream, {})
            here.pop(waiter, None)
            if not here:
                self._waiting.pop(stream, None)

    async def run(self) -> None:
        """Look for as long as somebody waits, until cancelled."""
        connection = self._connections.new()
        try:
            while True:
                self._changed.clear()
                self._interrupted = False
                self._covered = self._to_cover()
                if not self._covered:
                    await self._changed.wait()
                    continue
                try:
                    await self._look(connection)
                except TransportUnavailable as error:
                    self.fail(error)
        finally:
            await connection.disconnect(nowait=True)

    def fail(self, error: TransportUnavailable) -> None:
        """Let everybody who waits raise this."""
        for here in self._waiting.values():
            for waiter in here:
                if not waiter.done():
                    waiter.set_exception(TransportUnavailable(str(error)))

    def _wake(self, stream: str) -> bool:
        """Whether somebody waited."""
        waiting = [waiter for waiter in self._waiting.get(stream, ()) if not waiter.done()]
        for waiter in waiting:
            waiter.set_result(None)
        return bool(waiting)

    def _to_cover(self) -> dict[str, int]:
        """Streams with the smallest position behind which somebody waits, and those whose readers will be back."""
        covered: dict[str, int] = {}
        for stream, here in self._waiting.items():
            positions = [after for waiter, after in here.items() if not waiter.done()]
            if positions:
                covered[stream] = min(positions)
                self._seen.pop(stream, None)
        return covered | self._seen

    async def _look(self, connection: Connection) -> None:
        """One XREAD over everybody who waits."""
        if not connection.is_connected:
            self._number = await self._ask(connection, self._connections.timeout, "CLIENT", "ID")
        self._looking = True
        async with asyncio.TaskGroup() as group:
            group.create_task(self._interrupt())
            found = await self._read(connection)
            self._looking, self._covered = False, {}
            self._changed.set()
        if isinstance(found, TransportUnavailable):
            raise found
        if not found and not self._interrupted:
            self._seen.clear()
            found = dict.fromkeys(self._waiting)
        for stream, position in found.items():
            if self._wake(stream) and position is not None:
                self._seen[stream] = position
            else:
                self._seen.pop(stream, None)

    async def _read(self, connection: Connection) -> dict[str, int | None] | TransportUnavailable:
        """The streams that have something, and where; an error is a result here, so that the interrupt ends first."""
        ids = [f"{EPOCH}-{after}" for after in self._covered.values()]
        command = ("XREAD", "COUNT", 1, "BLOCK", BLOCK_MS, "STREAMS", *self._covered, *ids)
        try:
            answer = await self._ask(connection, BLOCK_MS / 1000 + self._connections.timeout, *command)
        except TransportUnavailable as error:
            return error
        return {stream.decode(): position_of(found[0][0]) for stream, found in answer or ()}

    async def _ask(self, connection: Connection, timeout: float, *command: str | int) -> Any:
        try:
            async with asyncio.timeout(timeout):
                return await self._connections.ask(connection, *command)
        except TimeoutError as error:
            raise TransportUnavailable(f"{self._connections.address}: no answer in {timeout:g} s") from error
        except ResponseError as error:
            raise TransportUnavailable(f"{self._connections.address}: {error}") from error

    async def _interrupt(self) -> None:
        """End the look under way once a reader waits that it does not cover. Ends with the look itself."""
        await self._changed.wait()
        while self._looking:
            try:
                if await self._connections.call("CLIENT", "UNBLOCK", self._number):
                    self._interrupted = True
                    return
            except (TransportUnavailable, ResponseError):
                return  # the look ends by itself within seconds
            await asyncio.sleep(AGAIN_SECONDS)
