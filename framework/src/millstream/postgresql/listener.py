"""Waking who waits in this process and in others (rule R2).

This process's own waiters are woken directly, without a trip to the server. NOTIFY takes a lock over all databases at
its commit, so it is sent only while another process listens, at most once every few milliseconds, and from a connection of its own
behind the commit: whoever it wakes sees the rows. What a crash in between swallows is found by the sweep of who waits.

A listening connection that was lost comes back by itself, and then every waiter is woken once: nobody knows what was
missed. The same connection shows that this process is there: it holds a lock for each name that it was given, which the server lets
go of as soon as the process has ended. All channels share one of the engine's, their names are its payload: whoever listens misses none from the
moment on at which the listener was opened.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self, final

from ..clock import Clock
from ..errors import MillstreamError
from ..ports.instrumentation import Instrumentation
from ..ports.store import Signal
from ..ports.wake import Wake
from .connection import NO_PARAMETERS, Bound, Connection
from .pool import Open, run
from .values import encoded

__all__ = ["LISTENER_NAME", "Listener", "gone"]

LISTENER_NAME = "millstream listener"
"""How a listening connection calls itself: by that name the processes find each other."""
GROUP_SECONDS = 0.003
"""At least this long between two NOTIFYs: the first commit after a pause sends one at once, those behind it share the next."""
COUNT_SECONDS = 5.0
"""How often a process that is alone looks whether others listen; it learns of a new one at once. It also finds out that way
that its own connection is dead."""
RECOUNT_SECONDS = 1.0
"""How often one looks that is not alone: who has ended must not cost a NOTIFY with every commit for long."""
AGAIN_SECONDS = 0.5
_WIRE = "millstream"
PRESENCE_LOCKS = 0x6D77
"""The first half of those locks, "mw"; the second is a hash of schema and name. Two names that share it hide each other's end,
which is then found by the lease."""
_HELLO = ""
"""Sent by who begins to listen; no channel is called so."""
_OTHERS: Bound = (
    b"""
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND application_name = current_setting('application_name')
    """,
    NO_PARAMETERS,
)
_HOLD = b"SELECT pg_try_advisory_lock_shared(%d, hashtext(current_schema() || '/' || $1))" % PRESENCE_LOCKS
_GONE = (
    b"""
    SELECT NOT EXISTS (
        SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2 AND classid = %d
        AND objid::bigint = hashtext(current_schema() || '/' || $1)::bigint & 4294967295
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    )
    """
    % PRESENCE_LOCKS
)


def gone(name: str) -> Bound:
    """One row: whether no connection in this schema shows that `name` is there."""
    return _GONE, encoded((name,))


@final
class Listener:
    """Channels of one database, for one process. Use with `async with`.

    wire: the engine's channel; another one for each service of a database that several share.
    """

    def __init__(self, open_: Open, *, clock: Clock, instrumentation: Instrumentation, wire: str = _WIRE) -> None:
        self._open = open_
        self._clock = clock
        self._instrumentation = instrumentation
        self._wire = wire
        self._signals: dict[str, list[_Signal]] = {}
        self._changed: set[str] = set()
        self._present: list[str] = []
        self._others = True
        self._sending: asyncio.TimerHandle | None = None
        self._sent = 0.0
        self._connection: Connection | None = None
        self._stir = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        connection = await self._connect()
        self._task = asyncio.get_running_loop().create_task(self._run(connection))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
            self._send()  # what was committed last; if it does not get through, the others sweep
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._connection is not None:
            self._connection.close()

    def listen(self, channel: str) -> Signal:
        """A place to wait for notifications of a channel, from this process and from others."""
        return _Signal(self._clock, self._signals.setdefault(channel, []))

    def committed(self, channels: set[str]) -> None:
        """Transactions that notify these channels have committed."""
        for channel in channels:
            self._wake(channel)
        if self._others:
            self._changed |= channels
            if self._sending is None:
                loop = asyncio.get_running_loop()
                self._sending = loop.call_at(max(loop.time(), self._sent + GROUP_SECONDS), self._send)

    async def present(self, name: str) -> None:
        """Show that `name` is there, from now on and after every reconnect.

        Raises:
            StoreUnavailable: not yet, the connection is lost; it will be when it comes back.
        """
        self._present.append(name)
        if self._connection is not None:
            await run(self._connection, (self._hold(name),))

    # -- inside -------------------------------------------------------------------------------------------------

    @staticmethod
    def _hold(name: str) -> Bound:
        return _HOLD, encoded((name,))

    def _wake(self, channel: str) -> None:
        for signal in self._signals.get(channel, ()):
            signal.set()

    def _send(self) -> None:
        self._sending = None
        self._sent = asyncio.get_running_loop().time()
        channels, self._changed = self._changed, set()
        connection = self._connection
        if connection is not None and connection.lost is None:
            connection.send([self._notify(channel) for channel in sorted(channels)], lambda _: None)

    def _notified(self, _wire: str, channel: str, pid: int) -> None:
        if self._connection is not None and pid == self._connection.backend_pid:
            return
        if channel == _HELLO:
            self._others = True
            self._stir.set()  # a count that is under way may not know of it yet
        else:
            self._wake(channel)

    def _notify(self, channel: str) -> Bound:
        return b"SELECT pg_notify($1, $2)", encoded((self._wire, channel))

    async def _connect(self) -> Connection:
        connection = self._connection = await self._open()
        connection.on_notify = self._notified
        connection.on_lost = lambda _: self._stir.set()
        quoted = self._wire.replace('"', '""')
        listen = f'LISTEN "{quoted}"'.encode()
        await run(connection, ((listen, NO_PARAMETERS), *map(self._hold, self._present), self._notify(_HELLO)))
        return connection

    async def _run(self, connection: Connection) -> None:
        while True:
            try:
                await self._count(connection)
            except MillstreamError as error:
                self._others = True
                self._instrumentation.log("warning", "listener_waits", error=str(error))
            while connection.lost is not None:
                await asyncio.sleep(AGAIN_SECONDS)
                with suppress(MillstreamError):
                    connection = await self._connect()
            for channel in self._signals:
                self._wake(channel)

    async def _count(self, connection: Connection) -> None:
        """Know whether others listen, until the connection is lost."""
        missing = True
        while True:
            self._stir.clear()
            (result,) = await run(connection, (_OTHERS,))
            found = bool(connection.rows(result)[0][0])
            # One that is missing once may only have lost its connection, and be back before anybody hears of it.
            self._others = found or not missing
            missing = not found
            with suppress(TimeoutError):
                async with asyncio.timeout(RECOUNT_SECONDS if self._others else COUNT_SECONDS):
                    await self._stir.wait()


class _Signal(Wake):
    """A wake-up that leaves its channel when closed."""

    __slots__ = ("_among",)

    def __init__(self, clock: Clock, among: list[_Signal]) -> None:
        super().__init__(clock)
        self._among = among
        among.append(self)

    def close(self) -> None:
        if self in self._among:
            self._among.remove(self)
