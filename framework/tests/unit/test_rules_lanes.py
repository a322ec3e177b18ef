"""Rule F1: a failing message makes its lane wait, and nobody else."""

from __future__ import annotations

from typing import Any

import pytest
from millstream import Drop, Event, Permanent
from millstream.delivery.operations_api import DeadLetterFilter
from millstream.errors import Refused

ALL = DeadLetterFilter()


class Thing(Event, topic="things", key="key"):
    key: str
    value: int = 0


class World:
    """A handler whose failures a test decides about."""

    def __init__(self) -> None:
        self.failing: set[int] = set()
        self.error: Exception = ValueError("failing")

    async def handle(self, event: Thing, tx: Any) -> None:
        if event.value in self.failing:
            raise self.error
        await tx.execute("INSERT INTO applied (key, value) VALUES (?, ?)", event.key, event.value)


async def applied(kernel: Any) -> list[int]:
    return [row[0] for row in await kernel.rows("SELECT value FROM applied ORDER BY n")]


async def dead(kernel: Any, values: list[int], dying: int, **options: Any) -> tuple[World, Any]:
    """A consumption whose lane `a` has taken `values` from the log, one of which is a dead letter."""
    world = World()
    world.failing, world.error = {dying}, Permanent("it can never work")
    sub = await kernel.subscribe(world.handle, Thing, **options)
    await kernel.append(*(Thing("a", value) for value in values))
    c = await kernel.hold(sub)
    await kernel.batch(c)
    world.failing = set()
    return world, c


async def test_f1_later_messages_of_the_lane_queue_up_behind_its_head_and_other_lanes_flow(kernel: Any) -> None:
    world = World()
    world.failing = {1}
    sub = await kernel.subscribe(world.handle, Thing)
    c = await kernel.hold(sub)
    await kernel.append(Thing("a", 1), Thing("b", 2), Thing("a", 3))
    await kernel.batch(c)
    await kernel.append(Thing("a", 4), Thing("b", 5))
    await kernel.batch(c)
    assert await applied(kernel) == [2, 5]
    world.failing = set()
    await kernel.clock.advance(1)
    await kernel.drain(c)
    assert await applied(kernel) == [2, 5, 1, 3, 4]
    assert await kernel.rows("SELECT * FROM millstream_lanes") == []


async def test_f1_the_same_key_of_another_tenant_is_another_lane(kernel: Any) -> None:
    world = World()
    world.failing = {1}
    sub = await kernel.subscribe(world.handle, Thing)
    await kernel.append(Thing("a", 1), tenant="north")
    await kernel.append(Thing("a", 2), tenant="south")
    await kernel.batch(await kernel.hold(sub))
    assert await applied(kernel) == [2]


async def test_f1_retries_wait_longer_each_time_up_to_the_last_attempt(kernel: Any) -> None:
    world = World()
    world.failing = {1}
    sub = await kernel.subscribe(world.handle, Thing)  # three attempts; 1 s, then 2 s
    await kernel.append(Thing("a", 1))
    c = await kernel.hold(sub)
    await kernel.batch(c)
    dues: list[int] = []
    while not await kernel.one("SELECT COUNT(*) FROM millstream_dead_letters"):
        due = await kernel.one("SELECT due FROM millstream_lanes")
        dues.append(due - kernel.clock.now_us())
        assert await kernel.drain(c) == 0, "not before it is due"
        await kernel.clock.advance((due - kernel.clock.now_us()) / 1e6)
        await kernel.drain(c)
    assert dues == [1_000_000, 2_000_000]
    assert await kernel.one("SELECT attempts FROM millstream_dead_letters") == 3


async def test_f1_a_lane_row_outlives_its_tail_while_a_dead_letter_holds_it(kernel: Any) -> None:
    _, c = await dead(kernel, [1], 1)
    assert await kernel.rows("SELECT key, state FROM millstream_lanes") == [("a", 1)]
    await kernel.append(Thing("a", 2))
    await kernel.batch(c)
    assert await applied(kernel) == []


async def test_f1_a_dropped_message_is_accepted_and_its_lane_flows(kernel: Any) -> None:
    world = World()
    world.failing, world.error = {1}, Drop()
    sub = await kernel.subscribe(world.handle, Thing)
    await kernel.append(Thing("a", 1), Thing("a", 2))
    await kernel.batch(await kernel.hold(sub))
    assert await applied(kernel) == [2]
    assert await kernel.one("SELECT COUNT(*) FROM millstream_dead_letters") == 0


async def test_f1_lanes_and_positions_show_what_does_not_flow(kernel: Any) -> None:
    _, c = await dead(kernel, [1, 2, 3], 2)
    (lane,) = await kernel.operations.lanes()
    assert (lane.state, lane.key, lane.parked, lane.due_us, lane.attempts) == ("held", "a", 1, None, 1)
    assert await kernel.operations.lanes(state="parked") == []
    (position,) = await kernel.operations.positions(subscription="sub")
    assert (position.position, position.parked, position.dead_letters, position.owner) == (3, 1, 1, "w1")
    with pytest.raises(Refused, match="not ahead"):
        await kernel.operations.skip("sub", 0, c.claim.position)
