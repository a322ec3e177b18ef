"""Notifications: after the commit, coalesced, and none is missed between two waits (rule R2)."""

from __future__ import annotations

import asyncio
import random

from ...errors import Refused
from ...ports.store import Session, Store
from .store_case import StoreCase, insert, rows_of
from .transport_case import PATIENCE

__all__ = ["Notifications"]

SOON = 0.1
"""Seconds to wait for what must not come."""


class Notifications(StoreCase):
    async def test_who_is_notified_sees_the_rows(self, store: Store, table: str) -> None:
        """R2: a notification comes after the commit: whoever it wakes sees what the transaction wrote."""
        signal = store.listen(table)

        async def woken() -> int:
            assert await signal.wait(PATIENCE) is True
            return len(await rows_of(store, table))

        for number in range(20):
            waiting = asyncio.get_running_loop().create_task(woken())
            await asyncio.sleep(0)
            await store.transact(_notifying(table, str(number)))
            assert await waiting == number + 1
        signal.close()

    async def test_many_notifications_are_one(self, store: Store, table: str) -> None:
        """R2: notifications coalesce: many commits between two waits are one wake-up."""
        signal = store.listen(table)
        for number in range(50):
            await store.transact(_notifying(table, str(number)))
        assert await signal.wait(PATIENCE) is True
        while await signal.wait(SOON):  # an engine may still deliver what was on its way
            pass
        assert await signal.wait(SOON) is False
        signal.close()

    async def test_a_rollback_notifies_nobody(self, store: Store, table: str) -> None:
        """R2: a transaction that failed wakes nobody, whatever shared its commit."""

        async def failing(session: Session) -> None:
            await _notifying(table, "undone")(session)
            raise Refused("no")

        signal = store.listen(table)
        loop = asyncio.get_running_loop()
        others = [
            loop.create_task(store.transact(_notifying(table, "before", f"{table}_other"))),
            loop.create_task(store.transact(failing)),
            loop.create_task(store.transact(_notifying(table, "behind", f"{table}_other"))),
        ]
        await asyncio.wait(others)
        assert isinstance(others[1].exception(), Refused)
        assert {name for name, _ in await rows_of(store, table)} == {"before", "behind"}
        assert await signal.wait(SOON) is False
        signal.close()

    async def test_nothing_is_missed_between_two_waits(self, store: Store, table: str) -> None:
        """R2: a notification that comes while nobody waits is there for the next wait, whatever the timing."""
        signal, chance = store.listen(table), random.Random(4)
        for number in range(100):
            waiting = asyncio.get_running_loop().create_task(signal.wait(PATIENCE))
            for _ in range(chance.randrange(5)):
                await asyncio.sleep(0)
            await store.transact(_notifying(table, str(number)))
            assert await waiting is True
        signal.close()

    async def test_a_cancelled_wait_keeps_the_notification(self, store: Store, table: str) -> None:
        """R2: a wait that was cancelled takes no notification with it."""
        signal = store.listen(table)
        for turn in range(20):
            waiting = asyncio.get_running_loop().create_task(signal.wait(PATIENCE))
            await asyncio.sleep(0)
            notify = _notifying(table, str(turn))
            if turn % 2:
                await store.transact(notify)  # the notification and the cancellation meet in one turn of the loop
                waiting.cancel()
            else:
                notifying = asyncio.get_running_loop().create_task(store.transact(notify))
                for _ in range(turn // 2 % 5):
                    await asyncio.sleep(0)
                waiting.cancel()
                await notifying
            await asyncio.wait([waiting])
            if waiting.cancelled():
                assert await signal.wait(PATIENCE) is True
        signal.close()

    async def test_channels_and_listeners_are_their_own(self, store: Store, table: str) -> None:
        """Every listener of a channel is woken, and nobody of another channel."""
        here, also_here, there = store.listen(table), store.listen(table), store.listen(f"{table}_other")
        await store.transact(_notifying(table, "a"))
        assert await here.wait(PATIENCE) is True
        assert await also_here.wait(PATIENCE) is True
        assert await there.wait(SOON) is False
        also_here.close()
        await store.transact(_notifying(table, "b"))
        assert await here.wait(PATIENCE) is True
        for signal in (here, there):
            signal.close()


class _notifying:  # noqa: N801 - used as a function
    """Work that inserts a row and notifies a channel, the one named like the table by default."""

    def __init__(self, table: str, name: str, channel: str = "") -> None:
        self._table, self._name, self._channel = table, name, channel or table

    async def __call__(self, session: Session) -> None:
        await insert(self._table, self._name)(session)
        session.notify(self._channel)
        session.notify(self._channel)
