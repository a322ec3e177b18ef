"""Rules C2, C3, C7, C8, C11: what a batch does with repeats, failures, unknown types, old messages and long lanes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from millstream import Event
from millstream.delivery import claims, inbox
from millstream.delivery.batch import TakeOut, run_batch
from millstream.delivery.consumer import Consumer
from millstream.delivery.consumption import Limits
from millstream.delivery.effects import Slots
from millstream.delivery.housekeeping import Housekeeper, Retention
from millstream.delivery.prepared import prepare
from millstream.message import Record, decode_message, encode_message
from millstream.ports.instrumentation import Silent


class Thing(Event, topic="things", key="key"):
    key: str
    value: int = 0


class Newer(Event, topic="things", key="key", version=2, type="Thing", upgrade={1: lambda old: {**old, "more": 0}}):
    key: str
    value: int
    more: int


class Other(Event, topic="things", key="key"):
    key: str


async def apply(event: Thing, tx: Any) -> None:
    await tx.execute("INSERT INTO applied (key, value) VALUES (?, ?)", event.key, event.value)
    if event.value < 0:
        raise ValueError("not this one")


async def applied(kernel: Any) -> list[int]:
    return [row[0] for row in await kernel.rows("SELECT value FROM applied ORDER BY n")]


async def test_c2_copies_inside_a_batch_and_behind_it_run_once(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    record = kernel.message(Thing("a", 1))
    await kernel.append(record, record, Thing("a", 2), record)
    c = await kernel.hold(sub)
    report = await kernel.batch(c)
    await kernel.append(record)
    await kernel.batch(c)
    assert await applied(kernel) == [1, 2]
    assert report.counts["millstream_messages_duplicate_total"] == 2


async def test_c2_a_parked_message_is_accepted_too_and_its_copy_is_dropped(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    record = kernel.message(Thing("a", -1))
    await kernel.append(record)
    c = await kernel.hold(sub)
    await kernel.batch(c)
    await kernel.append(record)
    await kernel.batch(c)
    assert await kernel.one("SELECT COUNT(*) FROM millstream_parked") == 1


async def test_c3_a_failing_message_costs_the_batch_nothing_and_keeps_none_of_its_changes(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    await kernel.append(Thing("a", 1), Thing("b", -1), Thing("c", 2), Thing("b", 3))
    c = await kernel.hold(sub)
    await kernel.batch(c)
    assert await applied(kernel) == [1, 2]
    assert await kernel.rows("SELECT key, attempts FROM millstream_parked ORDER BY position") == [("b", 1), ("b", 0)]


async def test_c3_without_cheap_savepoints_the_failing_message_is_taken_out_and_the_rest_runs_again(
    kernel: Any,
) -> None:
    sub = await kernel.subscribe(apply, Thing)
    await kernel.append(Thing("a", 1), Thing("b", -1), Thing("c", 2), Thing("b", 3))
    c = await kernel.hold(sub)
    items = prepare(await kernel.log.read("things", 0, 0).next(10), c.known, c.recorded)
    with pytest.raises(TakeOut) as out:
        await kernel.store.transact(lambda s: run_batch(s, c, items, {}, False))
    assert out.value.index == 1
    assert await applied(kernel) == []
    await kernel.store.transact(lambda s: run_batch(s, c, items, {1: out.value.error}, False))
    assert await applied(kernel) == [1, 2]
    assert await kernel.rows("SELECT key, attempts FROM millstream_parked ORDER BY position") == [("b", 1), ("b", 0)]


async def test_c3_a_batched_handler_that_fails_runs_again_one_by_one(kernel: Any) -> None:
    async def together(events: list[Thing], tx: Any) -> None:
        for event in events:
            await apply(event, tx)

    sub = await kernel.subscribe(together, Thing, batched=True)
    await kernel.append(Thing("a", 1), Thing("b", -1), Thing("c", 2), Thing("b", 3))
    c = await kernel.hold(sub)
    await kernel.batch(c)
    assert await applied(kernel) == [1, 2]
    assert await kernel.one("SELECT COUNT(*) FROM millstream_parked") == 2


async def test_c7_a_version_newer_than_this_worker_waits_without_blame_for_one_that_knows_it(kernel: Any) -> None:
    old = await kernel.subscribe(apply, Thing)
    await kernel.append(kernel.message(Newer("a", 1, 5)), Thing("a", 2))
    c = await kernel.hold(old)
    await kernel.batch(c)
    await kernel.drain(c)
    assert await applied(kernel) == []
    assert await kernel.rows("SELECT attempts, starts FROM millstream_parked") == [(0, 0), (0, 0)]
    assert await kernel.one("SELECT COUNT(*) FROM millstream_dead_letters") == 0
    await kernel.store.transact(lambda s: claims.release(s, c.claim))

    deployed = await kernel.subscribe(apply, Newer)
    await kernel.drain(await kernel.hold(deployed, owner="w2"))
    assert await applied(kernel) == [1, 2]


async def test_c7_recorded_types_only_grow_and_a_worker_without_one_parks_it(kernel: Any) -> None:
    await kernel.subscribe(apply, Thing, Other)
    older = await kernel.subscribe(apply, Thing)
    assert set(older.recorded) == {"Thing", "Other"}
    await kernel.append(Other("a"))
    c = await kernel.hold(older)
    await kernel.batch(c)
    assert await kernel.one("SELECT COUNT(*) FROM millstream_parked") == 1


async def test_c7_a_type_never_recorded_is_skipped_and_accepted(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    await kernel.append(Other("a"), Thing("a", 1))
    c = await kernel.hold(sub)
    report = await kernel.batch(c)
    assert report.counts["millstream_messages_skipped_total"] == 1
    assert await applied(kernel) == [1]
    assert await kernel.one("SELECT COUNT(*) FROM millstream_inbox") == 2


async def test_c7_undecodable_data_holds_its_lane_and_bytes_without_a_key_hold_none(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    broken = decode_message(kernel.message(Thing("a", 1)).value)
    data = encode_message(msgspec.structs.replace(broken, data=msgspec.Raw(b'{"key": 7}')))
    await kernel.append(Record(data), Record(b"no json"), Thing("a", 2), Thing("b", 3))
    c = await kernel.hold(sub)
    await kernel.batch(c)
    assert await applied(kernel) == [3]
    letters = await kernel.rows("SELECT reason, key, lane FROM millstream_dead_letters ORDER BY id")
    assert letters == [("undecodable", "a", 2), ("undecodable", "", 0)]
    assert await kernel.rows("SELECT key, state FROM millstream_lanes") == [("a", 1)]


RETENTION_US = 100_000_000


async def test_c8_the_inbox_forgets_by_the_streams_own_time_only(kernel: Any) -> None:
    kernel.limits = Limits(inbox_retention_seconds=100)
    sub = await kernel.subscribe(apply, Thing)
    record = kernel.message(Thing("a", 1))
    await kernel.append(record)
    c = await kernel.hold(sub)
    await kernel.batch(c)
    await kernel.clock.advance(10_000)  # the stream stands still: a copy may still come
    c = await kernel.hold(sub)
    _, gone = await kernel.store.transact(lambda s: inbox.purge(s, (0, "", ""), RETENTION_US, 10))
    assert gone == 0
    await kernel.append(record)
    c.claim.suspect = 0
    await kernel.run("UPDATE millstream_claims SET suspect = 0")
    await kernel.batch(c)
    assert await applied(kernel) == [1]


async def test_c8_what_is_older_than_the_inbox_is_never_run_and_holds_no_lane(kernel: Any) -> None:
    kernel.limits = Limits(inbox_retention_seconds=100)
    sub = await kernel.subscribe(apply, Thing)
    record = kernel.message(Thing("a", 1))
    await kernel.append(record)
    c = await kernel.hold(sub)
    await kernel.batch(c)
    await kernel.clock.advance(10)
    await kernel.append(Thing("a", 2), time="2030-01-01T00:00:00.000000Z")  # a clock ahead counts as ours at most
    await kernel.batch(c)
    _, gone = await kernel.store.transact(lambda s: inbox.purge(s, (0, "", ""), RETENTION_US, 10))
    assert gone == 0, "the newest time accepted is capped by the store's own clock"
    for _ in range(15):
        await kernel.clock.advance(10)
        await kernel.store.transact(lambda s: claims.renew(s, "w1", kernel.limits.lease_us))
    await kernel.append(Thing("a", 3))
    await kernel.batch(c)
    _, gone = await kernel.store.transact(lambda s: inbox.purge(s, (0, "", ""), RETENTION_US, 10))
    assert gone == 1
    await kernel.append(record, Thing("a", 4))  # the copy's row is gone
    await kernel.batch(c)
    assert await applied(kernel) == [1, 2, 3, 4]
    assert await kernel.rows("SELECT reason, lane FROM millstream_dead_letters") == [("older than the inbox", 0)]


async def test_c8_the_housekeeper_walks_in_steps_and_ends_when_stopped(kernel: Any) -> None:
    kernel.limits = Limits(inbox_retention_seconds=1)
    sub = await kernel.subscribe(apply, Thing)
    c = await kernel.hold(sub)
    await kernel.append(*(Thing("a", n) for n in range(25)))
    await kernel.batch(c)
    await kernel.run("INSERT INTO millstream_idempotency VALUES ('s', 'k', x'00', 200, '[]', x'', 0)")
    await kernel.clock.advance(5)
    await kernel.append(Thing("a", 99))
    await kernel.batch(c)
    keeper = Housekeeper(
        kernel.store, clock=kernel.clock, instrumentation=Silent(), retention=Retention(1.0, 1.0, 10, 0.1, 60.0)
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(keeper.run())
        while await kernel.one("SELECT COUNT(*) FROM millstream_inbox") != 1 or await kernel.one(
            "SELECT COUNT(*) FROM millstream_idempotency"
        ):
            await kernel.clock.advance(0.1)
        keeper.stop()
    assert await kernel.one("SELECT COUNT(*) FROM millstream_inbox") == 1


async def test_c11_the_untried_tail_drains_in_batches_once_its_head_succeeded(kernel: Any) -> None:
    fail = True

    async def handle(event: Thing, tx: Any) -> None:
        if fail:
            raise ValueError("not yet")
        await apply(event, tx)

    sub = await kernel.subscribe(handle, Thing)
    await kernel.append(*(Thing("a", n) for n in range(50)))
    c = await kernel.hold(sub)
    await kernel.batch(c)
    fail = False
    await kernel.clock.advance(2)
    head = await kernel.turn(c)
    assert len(head.started) == 1, "a message that failed runs alone"
    tail = await kernel.turn(c, head.started)
    assert len(tail.started) == 49
    assert (await kernel.turn(c, tail.started)).gone == 49
    assert await applied(kernel) == list(range(50))


async def test_c11_a_turn_starts_no_more_than_it_has_room_for(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    await kernel.append(*(Thing(key, 1) for key in ("a", "a", "a", "b", "c")))
    await kernel.run("UPDATE millstream_claims SET suspect = 0")
    c = await kernel.hold(sub)
    for key in "abc":
        await kernel.run("INSERT INTO millstream_lanes VALUES (?, 0, '', ?, 0, 0)", sub.id, key)
    await kernel.batch(c)
    assert len((await kernel.turn(c, room=3)).started) == 3


async def test_c11_beyond_the_limit_of_parked_messages_the_partition_blocks(kernel: Any) -> None:
    kernel.limits = Limits(parked_limit=5, batch_messages=2)
    sub = await kernel.subscribe(apply, Thing)
    await kernel.append(*(Thing("a", -1) for _ in range(50)))
    c = await kernel.hold(sub)
    consumer = Consumer(c, kernel.log, Slots(1))
    consumer._size = 2
    async with asyncio.TaskGroup() as group:
        group.create_task(consumer.run())
        await kernel.wait_for(lambda: consumer.blocked)
        consumer.stop()
    assert await kernel.one("SELECT COUNT(*) FROM millstream_parked") in (5, 6)


async def test_c7_a_nul_in_an_attribute_is_undecodable(kernel: Any) -> None:
    """Not every store keeps a NUL as text; CloudEvents forbids control characters in attributes."""
    sub = await kernel.subscribe(apply, Thing)
    c = await kernel.hold(sub)
    for name in ("id", "source", "subject"):
        await kernel.append(Thing("a", 1), **{name: "with \0 inside"})
    await kernel.append(Thing("b", 2))
    await kernel.batch(c)
    assert await kernel.rows("SELECT key, value FROM applied") == [("b", 2)]
    assert await kernel.rows("SELECT reason, lane FROM millstream_dead_letters") == [("undecodable", 0)] * 3


async def test_words_of_an_error_that_are_no_text_are_kept_readable(kernel: Any) -> None:
    async def handle(event: Thing, tx: Any) -> None:
        raise ValueError("a \0 and a \ud800")

    sub = await kernel.subscribe(handle, Thing)
    c = await kernel.hold(sub)
    await kernel.append(Thing("a", 1))
    await kernel.batch(c)
    assert r"a \0 and a \ud800" in await kernel.one("SELECT error FROM millstream_parked")
