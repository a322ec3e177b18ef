"""A service that takes in a foreign queue, and sources that end it or slow it down.

Run as a program it is killed with messages in hand: `python taking_in.py WHEN URL FOLDER`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from millstream import Event, Service, Tx
from millstream.clock import SystemClock
from millstream.ids import SystemEntropy
from millstream.ports.instrumentation import Silent
from millstream.ports.intake import ForeignMessage, IntakeSource
from millstream.runtime.adapters import AdapterContext, open_intake
from millstream.runtime.runtime import Composition, Runtime
from millstream.stores.sqlite import SqliteStore
from millstream.transports.log import open_transport

PATIENCE_SECONDS = 60.0


class LegacyOrder(Event, topic="legacy", key="order"):
    order: str
    total: int


def shop(folder: Path) -> Service:
    migrations = folder / "sql"
    migrations.mkdir(exist_ok=True)
    (migrations / "0001_seen.sql").write_text("CREATE TABLE seen (n INTEGER PRIMARY KEY, key TEXT, total INTEGER)")
    service = Service("shop", migrations=str(migrations))
    service.take_in(LegacyOrder, name="legacy")

    @service.on(LegacyOrder, name="keep", after_dead_letter="go_on")
    async def keep(event: LegacyOrder, tx: Tx) -> None:
        await tx.execute("INSERT INTO seen (key, total) VALUES (?, ?)", event.order, event.total)

    return service


class Hasty(SystemEntropy):
    """Tries again soon, so that a test need not wait out what is good for an engine that comes back."""

    def random(self) -> float:
        return super().random() * 0.02


class Running:
    """The service, on SQLite and the embedded log, with a source of messages."""

    def __init__(self, folder: Path, source: Callable[[], IntakeSource]) -> None:
        clock = SystemClock()
        self.store = SqliteStore(folder / "shop.db", clock=clock, synchronous="OFF")
        self.folder = folder
        self.composition = Composition(
            open_store=lambda _: self.store,
            transport=open_transport("log", context(folder)),
            data=folder,
            clock=clock,
            entropy=Hasty(),
            open_intake=lambda _: source(),
            partitions=2,
        )

    @asynccontextmanager
    async def __call__(self) -> AsyncIterator[Self]:
        async with Runtime([shop(self.folder)], self.composition):
            yield self

    async def seen(self) -> list[int]:
        return [row[0] for row in await self.store.query("SELECT total FROM seen ORDER BY n")]

    async def letters(self) -> list[str]:
        return [row[0] for row in await self.store.query("SELECT reason FROM millstream_dead_letters")]


def context(folder: Path = Path()) -> AdapterContext:
    return AdapterContext(folder, SystemClock(), Silent())


async def until(condition: Callable[[], Awaitable[object]], seconds: float = PATIENCE_SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110 - it changes in an engine
            await asyncio.sleep(0.005)


class Dying:
    """A source whose process is killed with messages in hand.

    when: `returned`, before they are accepted; `accepted`, before they are acknowledged; `eager` is `returned` without the
    safeguard: it acknowledges before they are accepted.
    """

    def __init__(self, source: IntakeSource, when: str) -> None:
        self._source = source
        self._when = when

    async def next(self, limit: int) -> Sequence[ForeignMessage]:
        found = await self._source.next(limit)
        if self._when == "eager":
            await self._source.acknowledge()
            await asyncio.sleep(0.2)  # the bytes are on their way: the kill must not overtake them
        if self._when in ("returned", "eager"):
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    async def acknowledge(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def __aenter__(self) -> Self:
        await self._source.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._source.__aexit__(kind, error, trace)


class Small:
    """A source that gives a few messages at a time, so that there is time to kill the engine in between."""

    def __init__(self, source: IntakeSource, rounds: list[int]) -> None:
        self._source = source
        self._rounds = rounds

    async def next(self, limit: int) -> Sequence[ForeignMessage]:
        found = await self._source.next(5)
        self._rounds.append(len(found))
        return found

    async def acknowledge(self) -> None:
        await self._source.acknowledge()

    async def __aenter__(self) -> Self:
        await self._source.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._source.__aexit__(kind, error, trace)


async def live_until_killed(when: str, url: str, folder: Path) -> None:
    async with Running(folder, lambda: Dying(open_intake(url, context()), when))():
        await asyncio.sleep(PATIENCE_SECONDS)


if __name__ == "__main__":
    asyncio.run(live_until_killed(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
