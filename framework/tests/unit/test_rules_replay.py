"""Rule F5: a new generation of a subscription reads the log again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from millstream import Event, Permanent
from millstream.delivery.housekeeping import Housekeeper, Retention
from millstream.delivery.replay import position_at, prepare_replay, replay
from millstream.errors import ClaimLost, Refused
from millstream.message import decode_message
from millstream.ports.instrumentation import Silent


class Thing(Event, topic="things", key="key"):
    key: str
    value: int = 0


class Made(Event, topic="made", key="key"):
    key: str


async def project(event: Thing, tx: Any) -> Made:
    if event.value < 0:
        raise Permanent("no")
    await tx.execute("INSERT INTO applied (key, value) VALUES (?, ?)", event.key, event.value)
    return Made(event.key)


async def begin(kernel: Any, sub: Any, **options: Any) -> Any:
    plan = await prepare_replay(kernel.log, "things", **options)
    return await kernel.store.transact(lambda s: replay(s, sub.subscription, plan))


async def applied(kernel: Any) -> list[int]:
    return [row[0] for row in await kernel.rows("SELECT value FROM applied ORDER BY n")]


async def test_f5_a_new_generation_handles_all_again_and_a_running_holder_stops(kernel: Any) -> None:
    sub = await kernel.subscribe(project, Thing)
    await kernel.append(Thing("a", 1), Thing("a", 2))
    former = await kernel.hold(sub)
    await kernel.batch(former)
    renewed = await begin(kernel, sub)
    assert renewed.id != sub.id
    assert renewed.generation == sub.generation + 1
    await kernel.append(Thing("a", 3))
    with pytest.raises(ClaimLost):
        await kernel.batch(former)
    with pytest.raises(ClaimLost):
        await kernel.turn(former)
    c = await kernel.hold(renewed)
    await kernel.batch(c)
    assert await applied(kernel) == [1, 2, 1, 2, 3]
    assert c.claim.suspect == 0


@pytest.mark.parametrize("batched", [False, True])
async def test_f5_events_of_replayed_messages_are_not_published_and_those_behind_are(
    kernel: Any, batched: bool
) -> None:
    async def many(events: list[Thing], tx: Any) -> list[Made]:
        return [await project(event, tx) for event in events]

    sub = await kernel.subscribe(many if batched else project, Thing, batched=batched)
    await kernel.append(Thing("a", 1), Thing("a", 2))
    await kernel.batch(await kernel.hold(sub))
    await kernel.run("DELETE FROM millstream_outbox")
    renewed = await begin(kernel, sub)
    await kernel.append(Thing("b", 3))
    await kernel.batch(await kernel.hold(renewed))
    assert await kernel.rows("SELECT key FROM millstream_outbox") == [("b",)]


async def test_f5_events_of_a_retried_replay_are_not_published_either(kernel: Any) -> None:
    fail = False

    async def handle(event: Thing, tx: Any) -> Made:
        if fail:
            raise ValueError
        return Made(event.key)

    sub = await kernel.subscribe(handle, Thing)
    await kernel.append(Thing("a", 1))
    await kernel.batch(await kernel.hold(sub))
    await kernel.run("DELETE FROM millstream_outbox")
    fail = True
    c = await kernel.hold(await begin(kernel, sub))
    await kernel.batch(c)
    fail = False
    await kernel.clock.advance(1)
    assert await kernel.drain(c) == 1
    assert await kernel.rows("SELECT key FROM millstream_outbox") == []


async def test_f5_asked_for_events_are_published_under_new_ids(kernel: Any) -> None:
    sub = await kernel.subscribe(project, Thing)
    await kernel.append(Thing("a", 1))
    await kernel.batch(await kernel.hold(sub))
    renewed = await begin(kernel, sub, publish_events=True)
    await kernel.batch(await kernel.hold(renewed))
    ids = [decode_message(row[0]).id for row in await kernel.rows("SELECT value FROM millstream_outbox")]
    assert len(set(ids)) == 2, "the generation is part of them, so that nobody takes them for repeats"


async def test_f5_an_effect_is_not_replayed_unless_asked_for_and_its_fence_goes_on(kernel: Any) -> None:
    async def call(event: Thing, call: Any) -> None: ...

    sub = await kernel.subscribe(call, Thing, effect=True)
    await kernel.append(Thing("a", 1))
    await kernel.hold(sub)
    fence = await kernel.one("SELECT fence FROM millstream_claims")
    with pytest.raises(Refused, match="effect"):
        await begin(kernel, sub)
    await kernel.hold(await begin(kernel, sub, run_effects=True))
    assert await kernel.one("SELECT fence FROM millstream_claims") > fence


async def test_f5_what_is_parked_or_dead_is_dropped_only_when_told(kernel: Any) -> None:
    sub = await kernel.subscribe(project, Thing)
    await kernel.append(Thing("a", -1), Thing("a", 2))
    await kernel.batch(await kernel.hold(sub))
    with pytest.raises(Refused, match="1 parked messages and 1 dead letters"):
        await begin(kernel, sub)
    assert await kernel.one("SELECT id FROM millstream_subscriptions") == sub.id
    await begin(kernel, sub, drop_parked=True)
    for table in ("parked", "lanes", "dead_letters"):
        assert await kernel.rows(f"SELECT * FROM millstream_{table}") == []


async def test_f5_a_replay_may_begin_at_a_time_or_behind_a_position(kernel: Any) -> None:
    sub = await kernel.subscribe(project, Thing)
    for value in range(20):
        await kernel.append(Thing("a", value))
        await kernel.clock.advance(1)
    since = kernel.clock.now_us() - 5_000_000
    assert await position_at(kernel.log, "things", 0, since) == 15
    assert await position_at(kernel.log, "things", 0, 0) == 0
    assert await position_at(kernel.log, "things", 0, kernel.clock.now_us()) == 20
    sub = await begin(kernel, sub, since_us=since)
    await kernel.batch(await kernel.hold(sub))
    assert await applied(kernel) == [15, 16, 17, 18, 19]
    await kernel.batch(await kernel.hold(await begin(kernel, sub, position=18)))
    assert await applied(kernel) == [15, 16, 17, 18, 19, 18, 19]
    with pytest.raises(Refused, match="cannot be read from 99"):
        await begin(kernel, sub, position=99)


async def test_f5_the_inbox_of_the_former_generation_is_purged_by_and_by(kernel: Any) -> None:
    sub = await kernel.subscribe(project, Thing)
    await kernel.append(*(Thing("a", n) for n in range(25)))
    await kernel.batch(await kernel.hold(sub))
    renewed = await begin(kernel, sub)
    await kernel.batch(await kernel.hold(renewed))
    keeper = Housekeeper(kernel.store, clock=kernel.clock, instrumentation=Silent(), retention=Retention(step_rows=10))
    async with asyncio.TaskGroup() as group:
        group.create_task(keeper.run())
        while await kernel.one("SELECT COUNT(*) FROM millstream_watermarks") > 1:
            await kernel.clock.advance(0.1)
        keeper.stop()
    assert await kernel.rows("SELECT DISTINCT subscription FROM millstream_inbox") == [(renewed.id,)]
    assert await kernel.one("SELECT COUNT(*) FROM millstream_inbox") == 25
