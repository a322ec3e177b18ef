"""A stop that comes at any step of a start ends it: also while a claim is being taken, which nobody holds yet."""

from __future__ import annotations

import asyncio
from pathlib import Path

import apsw
import pytest
from bank import bank, till
from millstream.runtime.runtime import Composition, Runtime
from millstream.stores.sqlite import SqliteStore
from millstream.testing.crash.forked import Body, Forked, Report
from millstream.testing.failpoints import Failpoints
from millstream.transports.log import LogTransport


def started_and_stopped(folder: Path, steps: int) -> Body:
    async def body(report: Report) -> None:
        composition = Composition(
            open_store=lambda name: SqliteStore(folder / f"{name}.db"),
            transport=LogTransport(folder / "log.db"),
            data=folder,
            partitions=2,
            settings=lambda _: {"points": Failpoints()},
        )
        async with Runtime([bank, till], composition):
            for _ in range(steps):
                await asyncio.sleep(0)

    return body


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144])
def test_a_stop_during_the_start_ends_the_process(steps: int, tmp_path: Path) -> None:
    end = Forked(started_and_stopped(tmp_path, steps), seconds=10.0).wait()
    assert end.how == "done", end.text
    for name in ("bank", "till"):
        store = apsw.Connection(str(tmp_path / f"{name}.db"))
        assert store.execute("SELECT COUNT(*) FROM millstream_claims WHERE owner IS NOT NULL").fetchall() == [(0,)]
        store.close()
