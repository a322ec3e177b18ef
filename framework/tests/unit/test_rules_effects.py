"""Rule F4: calls to the outside world."""

from __future__ import annotations

import asyncio
from typing import Any

from millstream import Event
from millstream.delivery.operations_api import DeadLetterFilter
from millstream.delivery.parking import Concluded

ALL = DeadLetterFilter()


class Thing(Event, topic="things", key="key"):
    key: str
    value: int = 0


async def test_f4_an_effect_parks_every_message_and_runs_lanes_side_by_side_one_of_a_lane(kernel: Any) -> None:
    going: set[tuple[str, int]] = set()
    let_go = asyncio.Event()

    async def call(event: Thing, call: Any) -> None:
        going.add((event.key, event.value))
        await let_go.wait()

    sub = await kernel.subscribe(call, Thing, effect=True, concurrency=10)
    await kernel.append(Thing("a", 1), Thing("a", 2), Thing("b", 3))
    c = await kernel.hold(sub)

    async def watch() -> None:
        await kernel.wait_for(lambda: len(going) == 2)
        for _ in range(200):
            await asyncio.sleep(0)
        assert going == {("a", 1), ("b", 3)}
        assert await kernel.one("SELECT position FROM millstream_claims") == 3, "the log is not held up by a slow call"
        let_go.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(watch())
        await kernel.consume(
            c, "SELECT position = 3 AND NOT EXISTS (SELECT 1 FROM millstream_parked) FROM millstream_claims"
        )
    assert going == {("a", 1), ("a", 2), ("b", 3)}


async def test_f4_the_fence_grows_with_every_start_and_every_takeover(kernel: Any) -> None:
    async def call(event: Thing, call: Any) -> None: ...

    sub = await kernel.subscribe(call, Thing, effect=True)
    await kernel.append(Thing("a", 1), Thing("b", 2))
    c = await kernel.hold(sub)
    await kernel.batch(c)
    turn = await kernel.turn(c)
    fences = [started.fence for started in turn.started]
    assert fences == sorted(set(fences))
    await kernel.turn(c, concluded=[Concluded(s, error=ValueError()) for s in turn.started], room=0)
    await kernel.clock.advance(2)
    again = [started.fence for started in (await kernel.turn(c)).started]
    assert min(again) > max(fences), "a second try has a newer fence, in the same epoch"
    await kernel.clock.advance(kernel.limits.lease_seconds + 1)
    after = await kernel.hold(sub, owner="w2")
    assert await kernel.one("SELECT fence FROM millstream_claims") > max(again)
    assert (await kernel.turn(after)).started[0].fence > max(again) + 1


async def test_f4_a_call_carries_the_same_key_for_every_try_and_ends_before_the_lease(kernel: Any) -> None:
    calls: list[Any] = []

    async def call(event: Thing, call: Any) -> None:
        calls.append(call)
        if len(calls) == 1:
            raise ValueError("again")

    sub = await kernel.subscribe(call, Thing, effect=True, timeout=3_600.0)
    await kernel.append(Thing("a", 1))
    c = await kernel.hold(sub)
    await kernel.consume(c, "SELECT COUNT(*) FROM millstream_parked WHERE attempts = 1")
    await kernel.clock.advance(1)
    await kernel.consume(c, "SELECT NOT EXISTS (SELECT 1 FROM millstream_parked)")
    first, second = calls
    assert first.idempotency_key == second.idempotency_key
    assert (first.attempt, second.attempt) == (1, 2)
    assert second.deadline_us - kernel.clock.now_us() < kernel.limits.lease_us
