"""Rules T4 to T6: what a transaction publishes and expects."""

from __future__ import annotations

from typing import Any

import pytest
from millstream import Event
from millstream.delivery.outbox import slot_of, write_rows
from millstream.errors import Refused, StoreUnavailable
from millstream.ids import derive_id
from millstream.message import decode_message


class Thing(Event, topic="things", key="key"):
    key: str
    value: int = 0


class Made(Event, topic="made", key="key"):
    key: str
    value: int = 0


async def test_t4_slots_are_locked_ascending_before_the_rows_which_keep_the_order_of_the_calls(kernel: Any) -> None:
    steps: list[Any] = []

    class Recording:
        async def lock_slots(self, slots: Any) -> None:
            steps.append(list(slots))

        def append(self, table: str, columns: Any, rows: Any) -> None:
            steps.append([row[2] for row in rows])

        def notify(self, channel: str) -> None: ...

    keys = ["e", "d", "c", "b", "a"]
    await write_rows(Recording(), [("made", key, b"") for key in keys])  # type: ignore[arg-type]
    assert steps[0] == sorted({slot_of("made", key) for key in keys})
    assert steps[1] == keys


async def test_t4_events_are_written_after_the_last_business_statement(kernel: Any) -> None:
    async def handle(event: Thing, tx: Any) -> None:
        tx.publish(Made(event.key))
        await tx.execute("INSERT INTO applied (key) VALUES (?)", event.key)

    sub = await kernel.subscribe(handle, Thing)
    await kernel.append(Thing("a"), Thing("b"))
    c = await kernel.hold(sub)
    inserted: list[str] = []

    def trace(_cursor: Any, sql: str, _bindings: Any) -> bool:
        if sql.startswith("INSERT INTO applied") or "millstream_outbox" in sql:
            inserted.append(sql.split()[2])
        return True

    kernel.store.file._writer.exec_trace = trace
    await kernel.batch(c)
    kernel.store.file._writer.exec_trace = None
    assert inserted == ["applied", "applied", "millstream_outbox", "millstream_outbox"], "two rows are no group of four"


async def test_t4_size_is_checked_at_the_call(kernel: Any) -> None:
    class Large(Event, topic="made", key="key"):
        key: str
        text: str

    with pytest.raises(Exception, match="Publish a reference"):
        await kernel.emit(Large("a", "x" * 1_100_000))
    assert await kernel.one("SELECT COUNT(*) FROM millstream_outbox") == 0


async def test_t5_an_expectation_that_does_not_hold_undoes_the_message(kernel: Any) -> None:
    class TooLate(Refused):
        pass

    async def handle(event: Thing, tx: Any) -> Made:
        await tx.execute("INSERT INTO applied (key) VALUES (?)", event.key)
        tx.expect("UPDATE applied SET value = 1 WHERE key = ? AND value = 7", event.key, otherwise=TooLate)
        return Made(event.key)

    sub = await kernel.subscribe(handle, Thing)
    await kernel.append(Thing("a"))
    await kernel.batch(await kernel.hold(sub))
    assert await kernel.rows("SELECT * FROM applied") == []
    assert await kernel.one("SELECT COUNT(*) FROM millstream_outbox") == 0
    assert "TooLate" in await kernel.one("SELECT error FROM millstream_dead_letters")


async def test_t5_a_handler_may_take_all_messages_of_a_batch_at_once(kernel: Any) -> None:
    sizes: list[int] = []

    async def handle(events: list[Thing], tx: Any) -> None:
        sizes.append(len(events))
        await tx.execute_many("INSERT INTO applied (key) VALUES (?)", [(e.key,) for e in events])

    sub = await kernel.subscribe(handle, Thing, batched=True)
    await kernel.append(*(Thing(str(n)) for n in range(7)))
    await kernel.batch(await kernel.hold(sub))
    assert sizes == [7]


async def test_t6_a_rerun_gives_the_events_the_same_ids(kernel: Any) -> None:
    tries = 0

    async def handle(event: Thing, tx: Any) -> list[Made]:
        nonlocal tries
        tries += 1
        tx.publish(Made(event.key, 1))
        if tries == 2:
            raise StoreUnavailable("lost")  # the whole batch runs again
        return [Made(event.key, 2), Made(event.key, 3)]

    sub = await kernel.subscribe(handle, Thing)
    await kernel.append(Thing("a"), Thing("b"))
    c = await kernel.hold(sub)
    with pytest.raises(StoreUnavailable):
        await kernel.batch(c)
    await kernel.batch(c)
    first = [decode_message(row[0]).id for row in await kernel.rows("SELECT value FROM millstream_outbox ORDER BY id")]
    await kernel.run("DELETE FROM millstream_outbox")
    await kernel.run("DELETE FROM millstream_inbox")
    await kernel.run("UPDATE millstream_claims SET position = 0")
    c.claim.position = 0
    await kernel.batch(c)
    again = [decode_message(row[0]).id for row in await kernel.rows("SELECT value FROM millstream_outbox ORDER BY id")]
    assert first == again
    assert len(set(first)) == 6


async def test_t6_a_retry_from_the_store_gives_the_ids_that_the_batch_would_have(kernel: Any) -> None:
    fail = True

    async def handle(event: Thing, tx: Any) -> Made:
        tx.publish(Made(event.key, 1))
        if fail:
            raise ValueError
        return Made(event.key, 2)

    sub = await kernel.subscribe(handle, Thing)
    record = kernel.message(Thing("a"), id="cause")
    await kernel.append(record)
    c = await kernel.hold(sub)
    await kernel.batch(c)
    fail = False
    await kernel.clock.advance(2)
    await kernel.drain(c)
    ids = [decode_message(row[0]).id for row in await kernel.rows("SELECT value FROM millstream_outbox ORDER BY id")]
    assert ids == [derive_id("/shop/sub", 0, "cause", n) for n in (1, 2)]


async def test_t6_a_second_run_in_the_same_transaction_gives_the_same_ids(kernel: Any) -> None:
    async def handle(events: list[Thing], tx: Any) -> None:
        tx.publish(Made(events[0].key))
        if len(events) > 1:
            raise ValueError("one by one")

    sub = await kernel.subscribe(handle, Thing, batched=True)
    await kernel.append(kernel.message(Thing("a"), id="cause"), Thing("b"))
    await kernel.batch(await kernel.hold(sub))
    first = await kernel.rows("SELECT value FROM millstream_outbox ORDER BY id")
    assert decode_message(first[0][0]).id == derive_id("/shop/sub", 0, "cause", 1)
