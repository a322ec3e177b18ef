"""Who is blamed when a process dies: the call that killed it, and none of those that were under way beside it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from millstream import Call, Event, Service
from millstream.delivery.outbox import Outbox
from millstream.delivery.tx import Tx
from millstream.ports.store import Session
from millstream.runtime.runtime import Composition, Runtime
from millstream.stores.sqlite import SqliteStore
from millstream.testing.crash.forked import Body, Forked, Report
from millstream.transports.log import LogTransport

INNOCENTS = 5
LIVES = 6


class Job(Event, topic="jobs", key="name", version=1):
    name: str


blame = Service("blame")


@blame.effect(Job, name="do", timeout="10s")
async def do(job: Job, call: Call) -> None:
    if job.name == "deadly":
        await asyncio.sleep(0.02)  # the others are under way by then
        os.kill(os.getpid(), signal.SIGKILL)
    await asyncio.sleep(0.2)


def life(folder: Path, first: bool) -> Body:
    async def body(report: Report) -> None:
        composition = Composition(
            open_store=lambda name: SqliteStore(folder / f"{name}.db"),
            transport=LogTransport(folder / "log.db"),
            data=folder,
            partitions=2,
        )
        async with Runtime([blame], composition) as runtime:
            bound = runtime.bound["blame"]

            async def jobs(session: Session) -> None:
                outbox = Outbox(bound.origin)
                for name in ("deadly", *(f"innocent-{n}" for n in range(INNOCENTS))):
                    Tx(session, outbox, composition.clock.now_us()).publish(Job(name))
                await outbox.flush(session)

            if first:
                await bound.store.transact(jobs)
            known = "SELECT (SELECT COUNT(*) FROM millstream_inbox), (SELECT COUNT(*) FROM millstream_parked)"
            while await bound.store.query(known) != [(INNOCENTS + 1, 0)]:  # noqa: ASYNC110 - a condition of the store
                await asyncio.sleep(0.01)
            dead = await bound.store.query("SELECT key FROM millstream_dead_letters ORDER BY key")
            report.counted({row[0]: 1 for row in dead})

    return body


def test_only_the_call_that_kills_becomes_a_dead_letter(tmp_path: Path) -> None:
    for number in range(LIVES):
        end = Forked(life(tmp_path, number == 0)).wait()
        if end.how == "done":
            assert list(end.counts) == ["deadly"]
            return
        assert end.how == "killed", end.text
    raise AssertionError("it never came to rest")
