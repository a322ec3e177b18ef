"""Many requests over a few connections: bounded, repeated where a repeat is safe, never hanging."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter

from ...errors import Transient
from .connection import Address, Connection, Reply

__all__ = ["Lane", "Unanswered", "lanes"]

BUSY = frozenset({408, 409, 425, 429, 502, 503, 504})
"""Statuses after which the same request, with the same idempotency key, may be sent again."""
REPLY_SECONDS = 30.0
FIRST_PAUSE, LONGEST_PAUSE = 0.02, 1.0


class Unanswered(Transient):
    """No final reply within the patience; whether the work was done is unknown."""


class Lane:
    """One connection that opens itself again, and sends a request until it has a final reply.

    Safe for reads and for writes with an idempotency key only. `repeats` counts what had to be sent again.
    """

    def __init__(self, address: Address, patience_seconds: float) -> None:
        self._address = address
        self._patience = patience_seconds
        self._connection: Connection | None = None
        self.repeats = 0

    async def send(self, data: bytes) -> Reply:
        """The final reply.

        Raises:
            Unanswered: there was none within the patience. UnexpectedReply: it is not understood.
        """
        connection = self._connection
        if connection is not None and connection.usable:  # the usual case: nothing else is in the way
            try:
                reply = await connection.request(data)
                if reply.status not in BUSY:
                    return reply
            except ConnectionError:
                pass
            self.repeats += 1
        return await self._insist(data)

    async def _insist(self, data: bytes) -> Reply:
        until, pause, last = perf_counter() + self._patience, FIRST_PAUSE, "no connection"
        while True:
            try:
                if self._connection is None or not self._connection.usable:
                    self._connection = await Connection.open(self._address)
                reply = await self._connection.request(data)
                if reply.status not in BUSY:
                    return reply
                last = f"status {reply.status}: {reply.body[:200].decode(errors='replace')}"
            except OSError as error:
                last = str(error)
            if perf_counter() + pause > until:
                raise Unanswered(f"no final reply for {self._patience:.0f} s; the last was: {last}")
            self.repeats += 1
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    def drop_if_stuck(self, now: float) -> None:
        """Abort a request that waits for longer than any reply may take."""
        connection = self._connection
        if connection is not None and connection.busy_since and now - connection.busy_since > REPLY_SECONDS:
            connection.abort()

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.abort()


@asynccontextmanager
async def lanes(address: Address, count: int, patience_seconds: float) -> AsyncGenerator[list[Lane]]:
    """Open lanes, watched so that none hangs; closed on leaving."""
    opened = [Lane(address, patience_seconds) for _ in range(count)]
    async with asyncio.TaskGroup() as group:
        watch = group.create_task(_watch(opened))
        try:
            yield opened
        finally:
            watch.cancel()
            for lane in opened:
                lane.close()
            # Connections that were aborted end in the loop's next steps; a loop that closes before that complains.
            await asyncio.sleep(0)
            await asyncio.sleep(0)


async def _watch(opened: list[Lane]) -> None:
    while True:
        await asyncio.sleep(1.0)
        now = perf_counter()
        for lane in opened:
            lane.drop_if_stuck(now)


async def for_each(opened: list[Lane], count: int, work: Callable[[Lane, int], Awaitable[None]]) -> None:
    """Run `work(lane, n)` for n from 0 to `count`, each lane one after the other."""
    numbers = iter(range(count))

    async def run(lane: Lane) -> None:
        for number in numbers:
            await work(lane, number)

    async with asyncio.TaskGroup() as group:
        for lane in opened:
            group.create_task(run(lane))
