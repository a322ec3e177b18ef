"""Rules L1, L2, L4 and R1 to R4: the log as the kernel uses it, and the relay that fills it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest
from millstream import Event
from millstream.delivery.timers import TimerMover
from millstream.errors import PositionGone, Refused, TransportUnavailable
from millstream.message import Record, decode_message, parse_time
from millstream.ports.instrumentation import Silent
from millstream.ports.transport import Transport
from millstream.transports.memory import MemoryTransport


class Thing(Event, topic="things", key="key"):
    key: str
    value: int = 0
    text: str = ""


async def apply(event: Thing, tx: Any) -> None:
    await tx.execute("INSERT INTO applied (key, value) VALUES (?, ?)", event.key, event.value)


async def values(kernel: Any, topic: str = "things") -> list[int]:
    return [
        Thing.__dict__["__millstream_event__"].decode(bytes(decode_message(r.value).data)).value
        for r in await kernel.published(topic)
    ]


def first_occurrences(found: list[int]) -> list[int]:
    return list(dict.fromkeys(found))


async def test_l1_progress_is_the_stores_alone_and_readers_take_nothing_from_each_other(kernel: Any) -> None:
    one = await kernel.subscribe(apply, Thing, name="one")
    two = await kernel.subscribe(apply, Thing, name="two")
    await kernel.append(Thing("a", 1), Thing("a", 2))
    await kernel.batch(await kernel.hold(one))
    await kernel.log.mark("shop/two", "things", 0, 2)  # a mark is a hint, whatever it says
    await kernel.batch(await kernel.hold(two))
    assert await kernel.rows("SELECT value FROM applied ORDER BY n") == [(1,), (2,), (1,), (2,)]


def test_l1_the_port_knows_no_groups_acknowledgements_or_redelivery() -> None:
    assert {name for name in vars(Transport) if not name.startswith("_")} == {
        "capabilities",
        "durability",
        "provision",
        "partitions",
        "bounds",
        "publish",
        "read",
        "mark",
        "unmark",
    }


class Lossy:
    """A log whose confirmations get lost as scripted: (records appended, records confirmed; None: an error)."""

    def __init__(self, log: MemoryTransport, script: list[tuple[int, int | None]]) -> None:
        self._log = log
        self._script = script
        self.calls = 0

    async def partitions(self, topic: str) -> int | None:
        return await self._log.partitions(topic)

    async def publish(self, topic: str, partition: int, records: Sequence[Record]) -> int:
        self.calls += 1
        if not self._script:
            return await self._log.publish(topic, partition, records)
        appended, confirmed = self._script.pop(0)
        await self._log.publish(topic, partition, records[:appended])
        if confirmed is None:
            raise TransportUnavailable("the confirmation is lost")
        return confirmed


@pytest.mark.parametrize("script", [[(2, None)], [(3, 1)], [(0, 0)], [(5, None), (1, 0)], [(4, 2), (1, None), (2, 1)]])
async def test_l2_lost_confirmations_repeat_records_but_never_change_their_first_order(
    kernel: Any, script: list[tuple[int, int | None]]
) -> None:
    await kernel.log.provision("things", 1)
    await kernel.emit(*(Thing("a", n) for n in range(5)))
    log = Lossy(kernel.log, script)
    while await kernel.one("SELECT COUNT(*) FROM millstream_outbox"):
        await kernel.relay(log)
    assert first_occurrences(await values(kernel)) == [0, 1, 2, 3, 4]


async def test_l4_rows_of_a_topic_that_is_not_provisioned_stay_in_the_outbox(kernel: Any) -> None:
    await kernel.emit(Thing("a", 1))
    await kernel.relay()
    assert await kernel.one("SELECT COUNT(*) FROM millstream_outbox") == 1
    await kernel.log.provision("things", 1)
    await kernel.relay()
    assert await values(kernel) == [1]


async def test_l4_a_position_that_is_gone_is_an_error_and_never_a_silent_skip(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    await kernel.append(*(Thing("a", n) for n in range(4)))
    kernel.log._topics["things"][0].trim(2)  # what an engine's own retention does
    c = await kernel.hold(sub)
    with pytest.raises(PositionGone):
        await kernel.batch(c)
    assert await kernel.one("SELECT position FROM millstream_claims WHERE subscription = ?", sub.id) == 0


async def test_r1_rows_are_not_seen_before_their_commit(kernel: Any) -> None:
    await kernel.log.provision("things", 1)
    reached, let_go = threading.Event(), threading.Event()

    def trace(_cursor: Any, sql: str, _bindings: Any) -> bool:
        if sql == "COMMIT":
            reached.set()
            let_go.wait(10)
        return True

    writer = kernel.store.file._writer
    writer.exec_trace = trace
    async with asyncio.TaskGroup() as group:
        group.create_task(kernel.emit(Thing("a", 1)))
        await kernel.wait_for(reached.is_set)
        await kernel.relay()
        assert await values(kernel) == []
        let_go.set()
    writer.exec_trace = None
    await kernel.relay()
    assert await values(kernel) == [1]


async def test_r1_a_crash_between_confirmation_and_deletion_repeats_and_the_inbox_drops(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    await kernel.emit(Thing("a", 1), Thing("a", 2))
    kept = await kernel.rows("SELECT id, slot, topic, key, value FROM millstream_outbox")
    await kernel.relay()
    assert await kernel.one("SELECT COUNT(*) FROM millstream_outbox") == 0
    for row in kept:  # the deletion never became durable
        await kernel.run("INSERT INTO millstream_outbox VALUES (?, ?, ?, ?, ?)", *row)
    await kernel.relay()
    assert await values(kernel) == [1, 2, 1, 2]
    await kernel.batch(await kernel.hold(sub))
    assert await kernel.rows("SELECT value FROM applied ORDER BY n") == [(1,), (2,)]


async def test_r2_a_row_that_commits_late_below_published_ones_is_sent(kernel: Any) -> None:
    await kernel.log.provision("things", 1)
    await kernel.emit(Thing("a", 1), Thing("b", 2))
    late = (await kernel.rows("SELECT id, slot, topic, key, value FROM millstream_outbox ORDER BY id LIMIT 1"))[0]
    await kernel.run("DELETE FROM millstream_outbox WHERE id = ?", late[0])
    await kernel.relay()
    await kernel.run("INSERT INTO millstream_outbox VALUES (?, ?, ?, ?, ?)", *late)
    await kernel.relay()
    assert await values(kernel) == [2, 1]


async def test_r2_a_commit_wakes_who_listens(kernel: Any) -> None:
    signal = kernel.store.listen("millstream_outbox")
    await kernel.emit(Thing("a"))
    assert await signal.wait(0)
    assert not await asyncio.wait_for(_advanced(kernel, signal), 5)
    signal.close()


async def _advanced(kernel: Any, signal: Any) -> bool:
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(signal.wait(1.0))
        await asyncio.sleep(0)
        await kernel.clock.advance(1.0)
    return waiting.result()


async def refused(kernel: Any) -> MemoryTransport:
    """A log that refuses large records; the second of key a is one."""
    log = MemoryTransport(largest_record_bytes=2_000)
    await log.__aenter__()
    await log.provision("things", 1)
    kernel.log = log
    await kernel.emit(Thing("a", 1), Thing("a", 2, "x" * 3_000), Thing("b", 3), Thing("a", 4), Thing("b", 5))
    await kernel.relay()
    return log


async def test_r3_a_refused_row_holds_its_key_and_no_other(kernel: Any) -> None:
    log = await refused(kernel)
    assert await values(kernel) == [1, 3, 5]
    state = await kernel.operations.outbox()
    assert [(h.topic, h.key, h.waiting) for h in state.held] == [("things", "a", 2)]
    assert state.depth == 2
    await kernel.emit(Thing("a", 6), Thing("b", 7))
    await kernel.relay()
    assert await values(kernel) == [1, 3, 5, 7]
    await log.__aexit__(None, None, None)


async def test_r3_a_held_key_does_not_fill_the_relays_window(kernel: Any) -> None:
    log = await refused(kernel)
    for _ in range(6):
        await kernel.emit(*(Thing("a", 9) for _ in range(100)))
    await kernel.emit(Thing("b", 7))
    await kernel.relay()
    assert (await values(kernel))[-1] == 7
    await log.__aexit__(None, None, None)


async def test_r3_an_operator_frees_edits_or_drops_the_row_and_the_key_flows_in_order(kernel: Any) -> None:
    log = await refused(kernel)
    operations = kernel.operations
    row_id = (await operations.outbox()).held[0].row_id
    with pytest.raises(Refused, match="not by"):
        await operations.drop_row("things", "a", row_id + 1)
    await operations.free_key("things", "a")
    await kernel.relay()
    assert [h.row_id for h in (await operations.outbox()).held] == [row_id], "as it stands it is refused again"
    held = await operations.held_row("things", "a")
    with pytest.raises(Refused, match="no JSON"):
        await operations.edit_row("things", "a", row_id, b"{")
    await operations.edit_row("things", "a", row_id, b'{"key":"a","value":22}')
    await kernel.relay()
    assert await values(kernel) == [1, 3, 5, 22, 4]
    published = decode_message((await kernel.published("things"))[3].value)
    assert published.id == decode_message(held.message.encode()).id
    with pytest.raises(Refused, match="is not held"):
        await operations.free_key("things", "a")
    await log.__aexit__(None, None, None)


async def test_r3_a_dropped_row_is_gone_and_the_rest_of_its_key_follows(kernel: Any) -> None:
    log = await refused(kernel)
    await kernel.operations.drop_row("things", "a", (await kernel.operations.outbox()).held[0].row_id)
    await kernel.relay()
    assert await values(kernel) == [1, 3, 5, 4]
    await log.__aexit__(None, None, None)


async def test_r4_timers_move_to_the_outbox_by_due_time_and_count_as_written_then(kernel: Any) -> None:
    await kernel.log.provision("things", 1)
    await kernel.emit(Thing("a", 2), delay="20s")
    await kernel.emit(Thing("a", 1), delay="10s")
    await kernel.emit(Thing("a", 3), delay="20s")
    mover = TimerMover(kernel.store, clock=kernel.clock, instrumentation=Silent())
    await kernel.store.transact(mover._move)
    await kernel.relay()
    assert await values(kernel) == []
    await kernel.clock.advance(30)
    await kernel.store.transact(mover._move)
    assert await kernel.one("SELECT COUNT(*) FROM millstream_timers") == 0
    await kernel.relay()
    assert await values(kernel) == [1, 2, 3]
    written = {parse_time(decode_message(r.value).time) for r in await kernel.published("things")}
    assert written == {kernel.clock.now_us()}, "the inbox is bounded by when the outbox row was written (C8)"
    mover._signal.close()
