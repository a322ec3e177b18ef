"""Rule F3: sources that number their events per key but may deliver them out of order."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import msgspec
import pytest
from millstream import Event, Permanent, Retry
from millstream.delivery.operations_api import DeadLetterFilter
from millstream.delivery.subscription import Sequence
from millstream.message import Record, decode_message, encode_message

ORDER = Sequence("number", first=1, gap=60.0)


class Step(Event, topic="things", key="key"):
    key: str
    number: int


class Unknown(Event, topic="things", key="key"):
    key: str
    number: int


class World:
    def __init__(self) -> None:
        self.failing: set[int] = set()
        self.error: Exception = ValueError("failing")

    async def handle(self, event: Step, tx: Any) -> None:
        if event.number in self.failing:
            raise self.error
        await tx.execute("INSERT INTO applied (key, value) VALUES (?, ?)", event.key, event.number)


async def applied(kernel: Any) -> list[int]:
    return [row[0] for row in await kernel.rows("SELECT value FROM applied ORDER BY n")]


async def numbered(kernel: Any, **options: Any) -> tuple[World, Any]:
    world = World()
    sub = await kernel.subscribe(world.handle, Step, sequence=ORDER, **options)
    return world, await kernel.hold(sub)


async def take(kernel: Any, c: Any, *numbers: int) -> None:
    """Let these come from the log, one batch each, and run what is due after each."""
    for number in numbers:
        await kernel.append(Step("a", number))
        await kernel.batch(c)
        await kernel.drain(c)


@pytest.mark.parametrize("order", list(permutations((1, 2, 3, 4))))
@pytest.mark.parametrize("together", [True, False])
async def test_f3_any_order_of_arrival_is_handled_in_the_order_of_the_numbers(
    kernel: Any, order: tuple[int, ...], together: bool
) -> None:
    _, c = await numbered(kernel)
    if together:
        await kernel.append(*(Step("a", number) for number in order))
        await kernel.batch(c)
        await kernel.drain(c)
    else:
        await take(kernel, c, *order)
    assert await applied(kernel) == [1, 2, 3, 4]
    assert await kernel.rows("SELECT * FROM millstream_lanes") == []


async def test_f3_early_messages_are_in_the_store_before_the_position_moves(kernel: Any) -> None:
    _, c = await numbered(kernel)
    await take(kernel, c, 3, 2)
    assert await kernel.one("SELECT position FROM millstream_claims") == 2
    assert await kernel.rows("SELECT layout, position FROM millstream_parked ORDER BY layout") == [(2, 2), (3, 1)]
    assert await applied(kernel) == []
    (lane,) = await kernel.operations.lanes()
    assert (lane.state, lane.parked) == ("parked", 2)


async def test_f3_other_keys_do_not_wait_for_a_gap(kernel: Any) -> None:
    _, c = await numbered(kernel)
    await kernel.append(Step("a", 2), Step("b", 1))
    await kernel.batch(c)
    assert await applied(kernel) == [1]


async def test_f3_when_the_gaps_time_is_over_the_lane_goes_on_with_what_is_there(kernel: Any) -> None:
    _, c = await numbered(kernel)
    await take(kernel, c, 1, 4, 5, 8)
    await kernel.clock.advance(59)
    assert await kernel.drain(c) == 0
    await kernel.clock.advance(1)
    await kernel.drain(c)
    assert await applied(kernel) == [1, 4, 5], "up to the next gap, which has a time of its own"
    await kernel.clock.advance(60)
    await kernel.drain(c)
    assert await applied(kernel) == [1, 4, 5, 8]


async def test_f3_the_gap_timer_stops_while_the_lane_is_parked(kernel: Any) -> None:
    world, c = await numbered(kernel, retry=Retry(first="100s", cap="100s", jitter=False))
    world.failing = {1}
    await take(kernel, c, 1, 3)  # 1 waits for its retry, 2 is missing
    await kernel.clock.advance(99)
    await kernel.drain(c)
    assert await applied(kernel) == []
    world.failing = set()
    await kernel.clock.advance(1)
    await kernel.drain(c)
    assert await applied(kernel) == [1], "the gap's time begins when nothing of the lane is parked any more"
    await kernel.clock.advance(59)
    await kernel.drain(c)
    assert await applied(kernel) == [1]
    await kernel.clock.advance(1)
    await kernel.drain(c)
    assert await applied(kernel) == [1, 3]


async def test_f3_a_held_lane_does_not_count_the_gaps_time(kernel: Any) -> None:
    world, c = await numbered(kernel)
    world.failing, world.error = {1}, Permanent("no")
    await take(kernel, c, 1, 3)
    await kernel.clock.advance(1_000)
    assert await kernel.due() == []
    world.failing = set()
    await kernel.operations.redrive(DeadLetterFilter())
    c = await kernel.hold_again("sub")
    await kernel.drain(c)
    assert await applied(kernel) == [1]
    await take(kernel, c, 2)
    assert await applied(kernel) == [1, 2, 3]


async def test_f3_a_dead_letter_that_goes_on_advances_what_is_expected(kernel: Any) -> None:
    world, c = await numbered(kernel, after_dead_letter="go_on")
    world.failing, world.error = {2}, Permanent("no")
    await take(kernel, c, 1, 3, 2, 4)
    assert await applied(kernel) == [1, 3, 4]
    world.failing = set()
    await kernel.operations.redrive(DeadLetterFilter())
    await kernel.drain(c)
    assert await applied(kernel) == [1, 3, 4, 2]


async def test_f3_a_stale_message_is_a_dead_letter_that_holds_no_lane(kernel: Any) -> None:
    _, c = await numbered(kernel)
    await take(kernel, c, 1, 2, 1, 3)
    assert await applied(kernel) == [1, 2, 3]
    assert await kernel.rows("SELECT reason, lane FROM millstream_dead_letters") == [("stale", 0)]


async def test_f3_a_second_message_with_a_number_that_waits_is_stale_too(kernel: Any) -> None:
    _, c = await numbered(kernel)
    await kernel.append(Step("a", 3), Step("a", 3))
    await kernel.batch(c)
    await take(kernel, c, 3, 1, 2)
    assert await applied(kernel) == [1, 2, 3]
    assert await kernel.rows("SELECT reason FROM millstream_dead_letters") == [("stale",), ("stale",)]


async def test_f3_a_redriven_stale_message_runs_without_moving_what_is_expected(kernel: Any) -> None:
    _, c = await numbered(kernel)
    await take(kernel, c, 1, 2, 1)
    await kernel.operations.redrive(DeadLetterFilter())
    await kernel.drain(c)
    await take(kernel, c, 3)
    assert await applied(kernel) == [1, 2, 1, 3]


async def test_f3_a_message_without_a_number_holds_nothing_and_finds_its_place_once_edited(kernel: Any) -> None:
    _, c = await numbered(kernel)
    message = decode_message(kernel.message(Step("a", 2)).value)
    broken = msgspec.structs.replace(message, data=msgspec.Raw(b'{"key": "a"}'))
    await take(kernel, c, 1)
    await kernel.append(Record(encode_message(broken)))
    await kernel.batch(c)
    await take(kernel, c, 3)
    assert await applied(kernel) == [1]
    assert await kernel.rows("SELECT reason, lane FROM millstream_dead_letters") == [("undecodable", 0)]
    await kernel.operations.redrive(DeadLetterFilter(ids=(1,)), edit=b'{"key":"a","number":2}')
    await kernel.drain(c)
    assert await applied(kernel) == [1, 2, 3]


async def test_f3_a_skipped_type_takes_its_number(kernel: Any) -> None:
    _, c = await numbered(kernel)
    await kernel.append(Step("a", 1), Unknown("a", 2), Step("a", 3))
    await kernel.batch(c)
    assert await applied(kernel) == [1, 3]


async def test_f3_retries_and_takeovers_keep_the_order(kernel: Any) -> None:
    world, c = await numbered(kernel)
    world.failing = {2}
    await take(kernel, c, 3, 1, 2, 5, 4)
    await kernel.clock.advance(kernel.limits.lease_seconds + 1)
    c = await kernel.hold_again("sub")
    world.failing = set()
    await kernel.drain(c)
    await take(kernel, c, 6)
    await kernel.drain(c)
    assert await applied(kernel) == [1, 2, 3, 4, 5, 6]


async def test_f3_a_consumer_wakes_for_the_end_of_a_gap(kernel: Any) -> None:
    _, c = await numbered(kernel)
    await kernel.append(Step("a", 2))
    await kernel.batch(c)
    await kernel.clock.advance(61)
    c = await kernel.hold_again("sub")
    await kernel.consume(c, "SELECT COUNT(*) = 1 FROM applied")
    assert await applied(kernel) == [2]


async def test_f3_a_subscription_without_a_sequence_runs_no_statement_for_it(kernel: Any) -> None:
    world = World()
    sub = await kernel.subscribe(world.handle, Step)
    await kernel.append(Step("a", 7), Step("a", 3))
    c = await kernel.hold(sub)
    seen: list[str] = []
    kernel.store.file._writer.exec_trace = lambda _c, sql, _b: seen.append(sql) or True
    await kernel.batch(c)
    kernel.store.file._writer.exec_trace = None
    assert await applied(kernel) == [7, 3]
    assert not [sql for sql in seen if "millstream_sequences" in sql]
