"""What becomes due: delayed messages, and schedules (rule R4).

A delayed message is a timer row; when due it moves to the outbox under the slots of T4, oldest first, so that its
place among the messages of its key is that of its commit there. A schedule runs its handler and sets its next time in
one transaction under a compare-and-set: once per tick, however many processes there are.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from ..clock import Clock
from ..errors import ForeignWait, StoreUnavailable
from ..message import decode_message, encode_message, format_time
from ..ports.instrumentation import Instrumentation
from ..ports.store import Session, Store
from ..ports.wake import Wake
from .outbox import TIMER_CHANNEL, Origin, Outbox, write_rows
from .tx import Tx, publish_returned
from .verdict import describe

__all__ = ["ScheduleRunner", "Ticking", "TimerMover"]

BATCH = 200
IDLE = 60.0


class TimerMover:
    """Moves due timer rows of one store to its outbox. Run by the holder of the relay shard."""

    def __init__(self, store: Store, *, clock: Clock, instrumentation: Instrumentation) -> None:
        self._store = store
        self._clock = clock
        self._instrumentation = instrumentation
        self._signal = store.listen(TIMER_CHANNEL)
        self._stopping = False

    async def run(self) -> None:
        """Move what is due until stopped."""
        while not self._stopping:
            rows = await self._store.query("SELECT due FROM millstream_timers ORDER BY due, id LIMIT 1")
            wait = (rows[0][0] - self._clock.now_us()) / 1e6 if rows else IDLE
            if wait > 0:
                await self._signal.wait(min(wait, IDLE))
                continue
            try:
                await self._store.transact(self._move)
            except StoreUnavailable as error:
                self._instrumentation.log("warning", "timers_wait", error=str(error))
                await self._clock.sleep(1.0)
        self._signal.close()

    def stop(self) -> None:
        """End after the transaction at hand."""
        self._stopping = True
        self._signal.set()

    async def _move(self, session: Session) -> None:
        now_us = self._clock.now_us()
        rows = await session.fetch(
            "DELETE FROM millstream_timers WHERE id IN "
            "(SELECT id FROM millstream_timers WHERE due <= ? ORDER BY due, id LIMIT ?) "
            "RETURNING due, id, topic, key, value",
            now_us,
            BATCH,
        )
        written = format_time(now_us)
        out: list[tuple[str, str | None, bytes]] = []
        for _, _, topic, key, value in sorted(rows, key=lambda row: (row[0], row[1])):
            # The inbox is bounded by when the outbox row was written (rule C8), which is now.
            message = msgspec.structs.replace(decode_message(value), time=written)
            out.append((topic, key, encode_message(message)))
        if out:
            await write_rows(session, out)


class Ticking(msgspec.Struct, frozen=True, eq=False):
    """A schedule with its handler bound: `handle(tx)`."""

    name: str
    every: float
    handle: Callable[[Tx], Awaitable[Any]]


class ScheduleRunner:
    """Runs one schedule of a service."""

    def __init__(
        self, ticking: Ticking, store: Store, origin: Origin, *, clock: Clock, instrumentation: Instrumentation
    ) -> None:
        self._ticking = ticking
        self._store = store
        self._origin = origin
        self._clock = clock
        self._instrumentation = instrumentation
        self._wake = Wake(clock)
        self._stopping = False

    async def run(self) -> None:
        """Tick until stopped. A tick that fails is logged and not repeated before its next time."""
        while not self._stopping:
            rows = await self._store.query("SELECT due FROM millstream_schedules WHERE name = ?", self._ticking.name)
            due = rows[0][0] if rows else 0
            wait = (due - self._clock.now_us()) / 1e6
            if wait > 0:
                await self._wake.wait(wait)
                continue
            try:
                await self._tick_once(due)
            except StoreUnavailable as error:
                self._instrumentation.log("warning", "schedule_waits", schedule=self._ticking.name, error=str(error))
                await self._clock.sleep(1.0)

    def stop(self) -> None:
        """End after the tick at hand."""
        self._stopping = True
        self._wake.set()

    async def _tick_once(self, due: int) -> None:
        try:
            await self._store.transact(lambda session: self._tick(session, due))
        except ForeignWait as error:
            # The wait tore the transaction that would have set the next time (rule T3): set it without the handler.
            self._instrumentation.log("error", "schedule_failed", schedule=self._ticking.name, error=str(error))
            await self._store.transact(lambda session: self._take_tick(session, due, self._clock.now_us()))

    async def _take_tick(self, session: Session, due: int, now_us: int) -> bool:
        """Set the next time; False if another process did."""
        following = now_us + round(self._ticking.every * 1e6)
        if due == 0:
            mine = await session.execute(
                "INSERT INTO millstream_schedules (name, due) VALUES (?, ?) ON CONFLICT DO NOTHING",
                self._ticking.name,
                following,
            )
        else:
            mine = await session.execute(
                "UPDATE millstream_schedules SET due = ? WHERE name = ? AND due = ?",
                following,
                self._ticking.name,
                due,
            )
        return bool(mine)

    async def _tick(self, session: Session, due: int) -> None:
        now_us = self._clock.now_us()
        if not await self._take_tick(session, due, now_us):
            return
        outbox = Outbox(self._origin)
        tx = Tx(session, outbox, now_us)
        await session.savepoint()
        try:
            publish_returned(tx, await self._ticking.handle(tx))
            await session.flush()
        except StoreUnavailable:
            raise
        except Exception as error:  # noqa: BLE001 - a schedule has no message to blame; the next tick tries again
            await session.rollback()
            self._instrumentation.log("error", "schedule_failed", schedule=self._ticking.name, error=describe(error))
            return
        await session.release()
        await outbox.flush(session)
