"""What the embedded log promises beyond the port: it survives SIGKILL, a full disk and its own retention settings."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import apsw
import pytest
from millstream.errors import Misconfigured, TransportUnavailable
from millstream.message import Record
from millstream.ports.instrumentation import Labels, Silent
from millstream.runtime.adapters import AdapterContext
from millstream.testing.clock import ManualClock
from millstream.testing.conformance.transport_case import everything, keyed, take, values, within
from millstream.transports.log import LogOptions, LogTransport, open_transport

PUBLISHER = """
import asyncio, sys
from millstream.message import Record
from millstream.transports.log import LogTransport

async def publisher(log, partition):
    done = (await log.bounds("orders", partition)).latest
    while True:
        batch = [Record(str(done + n).encode(), "k") for n in range(20)]
        done += await log.publish("orders", partition, batch)
        print(partition, done, flush=True)

async def main():
    async with LogTransport(sys.argv[1]) as log, asyncio.TaskGroup() as group:
        await log.provision("orders", 3)
        for partition in range(3):
            group.create_task(publisher(log, partition))

asyncio.run(main())
"""


async def test_what_was_confirmed_survives_sigkill(tmp_path: Path) -> None:
    confirmed = dict.fromkeys(range(3), 0)
    for turn in range(5):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PUBLISHER, str(tmp_path / "log.db"), stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        for _ in range(20 + 11 * turn):
            partition, done = map(int, (await process.stdout.readline()).split())
            confirmed[partition] = done
        process.send_signal(signal.SIGKILL)
        for line in (await process.stdout.read()).splitlines():
            if len(line.split()) == 2:
                confirmed[int(line.split()[0])] = int(line.split()[1])
        await process.wait()
        async with LogTransport(tmp_path / "log.db") as log:
            for partition in range(3):
                numbers = [int(value) for value in values(await everything(log, "orders", partition))]
                assert numbers == list(range(len(numbers)))
                assert len(numbers) >= confirmed[partition]
                assert len(numbers) % 20 == 0, "a batch is atomic"


async def test_a_publisher_that_gave_up_does_not_take_the_wake_up_along(tmp_path: Path) -> None:
    async with LogTransport(tmp_path / "log.db") as log:
        await log.provision("orders", 1)
        committing, gate, commit = asyncio.Event(), threading.Event(), log._file._commit
        loop = asyncio.get_running_loop()

        def held() -> None:
            loop.call_soon_threadsafe(committing.set)
            gate.wait()
            commit()

        log._file._commit = held
        waiting = loop.create_task(log.read("orders", 0, 0).next(1))
        publishing = loop.create_task(log.publish("orders", 0, keyed("k", 1)))
        await committing.wait()
        publishing.cancel()
        await asyncio.wait([publishing])
        gate.set()
        assert values(await within(waiting)) == ["k:1"]


async def test_a_weaker_setting_is_read_back(tmp_path: Path) -> None:
    async with LogTransport(tmp_path / "log.db", options=LogOptions(synchronous="NORMAL")) as log:
        durability = await log.durability()
        assert durability.process_crash
        assert not durability.power_loss
        assert "FULL" in durability.why_not


async def test_a_full_disk_confirms_nothing_and_lets_go_on(tmp_path: Path) -> None:
    async with LogTransport(tmp_path / "log.db") as log:
        await log.provision("orders", 2)
        await log.publish("orders", 0, keyed("k", 1))
        writer = log._file._writer
        writer.pragma("max_page_count", writer.pragma("page_count"))
        waiting = asyncio.get_running_loop().create_task(log.read("orders", 0, 1).next(10))
        with pytest.raises(TransportUnavailable):
            await log.publish("orders", 0, [Record(bytes(1_000_000), "k")])
        assert (await log.bounds("orders", 0)).latest == 1
        assert not waiting.done()
        writer.pragma("max_page_count", 1_000_000)
        await log.publish("orders", 0, keyed("k", 2))
        assert values(await waiting) == ["k:2"]
        assert [record.position for record in await everything(log, "orders", 0)] == [1, 2]


async def test_records_are_kept_for_the_time_asked_for(tmp_path: Path) -> None:
    clock = ManualClock()
    async with LogTransport(tmp_path / "log.db", clock=clock, options=LogOptions(keep="1h")) as log:
        await log.provision("orders", 1)
        for minute in range(6):
            await log.publish("orders", 0, keyed("k", *range(minute * 10, minute * 10 + 10)))
            await clock.advance(600)
        await log.mark("only", "orders", 0, 60)
        assert await log.retain() <= 10
        assert (await log.bounds("orders", 0)).earliest <= 10
        await clock.advance(1_800)
        await log.retain()
        left = await everything(log, "orders", 0)
        assert left[0].position == 31, "the fourth batch was written an hour ago, the third one earlier"


async def test_records_are_kept_by_number(tmp_path: Path) -> None:
    async with LogTransport(tmp_path / "log.db", options=LogOptions(keep=0, keep_records=7)) as log:
        await log.provision("orders", 1)
        await log.publish("orders", 0, keyed("k", *range(20)))
        await log.mark("only", "orders", 0, 20)
        assert await log.retain() == 13
        assert values(await everything(log, "orders", 0)) == [f"k:{number}" for number in range(13, 20)]


class Commits(Silent):
    """Counts commits of the file."""

    def __init__(self) -> None:
        self.commits = 0

    def count(self, metric: str, labels: Labels, amount: int = 1) -> None:
        self.commits += amount * (metric == "millstream_store_commits_total")


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what threads bring about."""
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - a thread cannot set an event
            await asyncio.sleep(0.001)


async def test_marks_cost_one_commit_a_second_at_most(tmp_path: Path) -> None:
    clock, commits = ManualClock(), Commits()
    async with LogTransport(tmp_path / "log.db", clock=clock, instrumentation=commits) as log:
        await log.provision("orders", 4)
        before = commits.commits
        for position in range(1, 1_000):
            await log.mark("only", "orders", position % 4, position)
        assert commits.commits == before
        await clock.advance(1.0)
        await until(lambda: commits.commits > before)
        await clock.advance(5.0)
        await log.publish("orders", 0, keyed("k", 1))
        assert commits.commits == before + 2, "one for the marks, one for the record, none for seconds without news"
    file = apsw.Connection(str(tmp_path / "log.db"))
    assert file.execute("SELECT partition, position FROM marks ORDER BY 1").fetchall() == [
        (0, 996), (1, 997), (2, 998), (3, 999),
    ]  # fmt: skip
    file.close()


async def test_retention_comes_by_itself(tmp_path: Path) -> None:
    clock = ManualClock()
    async with LogTransport(tmp_path / "log.db", clock=clock, options=LogOptions(keep=0)) as log:
        await log.provision("orders", 1)
        await log.publish("orders", 0, keyed("k", *range(3_000)))
        await log.mark("only", "orders", 0, 2_500)
        for _ in range(10):
            await clock.advance(1.0)
            await log.publish("orders", 0, keyed("k", 0))  # the tick's own commit is over by then
        async with asyncio.timeout(15):
            while (await log.bounds("orders", 0)).earliest < 2_500:  # noqa: ASYNC110 - a thread cannot set an event
                await asyncio.sleep(0.001)
        assert (await log.bounds("orders", 0)).earliest == 2_500


async def test_a_batch_of_large_records_is_bounded(tmp_path: Path) -> None:
    async with LogTransport(tmp_path / "log.db") as log:
        await log.provision("orders", 1)
        for _ in range(6):  # 6 MB: below what starts a checkpoint
            await log.publish("orders", 0, [Record(bytes(1_000_000), "k")])
        reader = log.read("orders", 0, 0)
        assert len(await reader.next(10)) == 5, "4 MiB and the record that passes it"
        busy, *_ = log._file._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()[0]
        assert not busy, "the cut read is closed: it does not hold the WAL"
        assert len(await take(reader, 1)) == 1


async def test_a_file_of_a_later_format_is_refused(tmp_path: Path) -> None:
    async with LogTransport(tmp_path / "log.db"):
        pass
    file = apsw.Connection(str(tmp_path / "log.db"))
    file.pragma("user_version", 99)
    file.close()
    with pytest.raises(Misconfigured, match="99"):
        async with LogTransport(tmp_path / "log.db"):
            pass
    file = apsw.Connection(str(tmp_path / "log.db"))
    file.pragma("user_version", 1)
    file.close()
    async with LogTransport(tmp_path / "log.db"):  # the refusal let go of the file
        pass


async def test_the_url_chooses_file_and_retention(tmp_path: Path) -> None:
    context = AdapterContext(tmp_path, ManualClock(), Silent(), keep_seconds=60.0)
    async with open_transport("log:", context):
        assert (tmp_path / "log.db").exists()
    log = open_transport(f"log://{tmp_path}/elsewhere.db?keep=2d&keep_records=5&largest_record_bytes=2000000", context)
    async with log:
        assert (tmp_path / "elsewhere.db").exists()
        assert log.capabilities.largest_record_bytes == 2_000_000
    with pytest.raises(Misconfigured) as refused:
        open_transport("log:?keep=soon&sync=OFF&keeep_records=1", context)
    assert len(refused.value.problems) == 3
