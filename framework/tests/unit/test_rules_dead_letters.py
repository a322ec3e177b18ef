"""Rule F2: dead letters, and what an operator does with them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from millstream import Event, Permanent
from millstream.delivery import claims
from millstream.delivery.operations_api import DeadLetterFilter, Operations
from millstream.errors import Refused
from millstream.message import Record

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


async def test_f2_a_redriven_letter_goes_back_to_its_own_place(kernel: Any) -> None:
    _, c = await dead(kernel, [1, 2, 3], 1)
    end = (await kernel.log.bounds("things", 0)).latest
    moved = await kernel.operations.redrive(ALL)
    assert (moved.matched, moved.moved, moved.remaining) == (1, 1, 0)
    await kernel.append(Thing("a", 4))
    await kernel.batch(c)
    await kernel.drain(c)
    assert await applied(kernel) == [1, 2, 3, 4]
    assert (await kernel.log.bounds("things", 0)).latest == end + 1, "it never goes through the log"
    assert await kernel.rows("SELECT * FROM millstream_lanes") == []


async def test_f2_redrive_begins_again_with_no_attempts_and_due_now(kernel: Any) -> None:
    world, c = await dead(kernel, [1], 1)
    world.failing, world.error = {1}, ValueError("again")
    await kernel.operations.redrive(ALL)
    assert await kernel.rows("SELECT attempts, starts FROM millstream_parked") == [(0, 0)]
    await kernel.drain(c)
    assert await kernel.one("SELECT attempts FROM millstream_parked") == 1


async def test_f2_redrive_writes_the_claim_row_first(kernel: Any) -> None:
    await dead(kernel, [1, 2], 1)
    written: list[str] = []

    def trace(_cursor: Any, sql: str, _bindings: Any) -> bool:
        if sql.split(maxsplit=1)[0] in ("INSERT", "UPDATE", "DELETE"):
            written.append(next(word for word in sql.split() if word.startswith("millstream_")))
        return True

    kernel.store.file._writer.exec_trace = trace
    await kernel.operations.redrive(ALL)
    kernel.store.file._writer.exec_trace = None
    assert written[0] == "millstream_claims"


async def test_f2_an_edited_message_keeps_its_place_and_id_and_the_old_id_stays_in_the_inbox(kernel: Any) -> None:
    world, c = await dead(kernel, [1, 2], 1)
    world.failing = {1}
    (row,) = await kernel.operations.dead_letters(ALL)
    inbox = await kernel.rows("SELECT id FROM millstream_inbox")
    await kernel.operations.redrive(DeadLetterFilter(ids=(row.id,)), edit=b'{"key":"a","value":10}')
    await kernel.drain(c)
    assert await applied(kernel) == [10, 2]
    assert await kernel.rows("SELECT id FROM millstream_inbox") == inbox


async def test_f2_dropping_the_letter_that_holds_a_lane_resumes_it(kernel: Any) -> None:
    _, c = await dead(kernel, [1, 2], 1)
    assert (await kernel.operations.drop(ALL)).moved == 1
    await kernel.drain(c)
    assert await applied(kernel) == [2]
    assert await kernel.rows("SELECT * FROM millstream_lanes") == []


@pytest.mark.parametrize("again", [True, False])
async def test_f2_dropping_or_redriving_one_letter_does_not_resume_a_lane_that_another_holds(
    kernel: Any, again: bool
) -> None:
    world, c = await dead(kernel, [1], 1, after_dead_letter="go_on")
    await kernel.store.transact(lambda s: claims.release(s, c.claim))
    strict = await kernel.subscribe(world.handle, Thing)  # the declaration says `hold` from now on
    world.failing = {2}
    await kernel.append(Thing("a", 2), Thing("a", 3))
    c = await kernel.hold(strict)
    await kernel.batch(c)
    world.failing = set()
    first, second = await kernel.operations.dead_letters(ALL)
    assert (first.holds_lane, second.holds_lane) == (False, True)
    await (kernel.operations.redrive if again else kernel.operations.drop)(DeadLetterFilter(ids=(first.id,)))
    await kernel.drain(c)
    assert await applied(kernel) == [], "the lane waits for a decision about the letter that holds it"
    await kernel.operations.redrive(DeadLetterFilter(ids=(second.id,)))
    await kernel.drain(c)
    assert await applied(kernel) == ([1, 2, 3] if again else [2, 3])


async def test_f2_after_going_on_a_redriven_message_runs_next_and_new_ones_queue_behind_it(kernel: Any) -> None:
    _, c = await dead(kernel, [1, 2], 1, after_dead_letter="go_on")
    assert await applied(kernel) == [2]
    await kernel.operations.redrive(ALL)
    await kernel.append(Thing("a", 3))
    await kernel.batch(c)
    assert await applied(kernel) == [2]
    await kernel.drain(c)
    assert await applied(kernel) == [2, 1, 3]


async def test_f2_a_dry_run_moves_nothing_and_a_call_is_bounded(kernel: Any) -> None:
    world = World()
    world.failing, world.error = set(range(12)), Permanent("no")
    sub = await kernel.subscribe(world.handle, Thing)
    await kernel.append(*(Thing(str(n), n) for n in range(12)))
    await kernel.batch(await kernel.hold(sub))
    operations = kernel.operations
    dry = await operations.redrive(ALL, dry_run=True, limit=5)
    assert (dry.matched, dry.moved, dry.remaining, len(dry.ids)) == (12, 0, 12, 5)
    first = await operations.redrive(ALL, limit=5)
    assert (first.moved, first.remaining, first.ids) == (5, 7, dry.ids)
    while (moved := await operations.drop(ALL, limit=5)).remaining:
        assert moved.moved == 5
    assert await kernel.one("SELECT COUNT(*) FROM millstream_dead_letters") == 0


async def test_f2_a_rate_spreads_the_due_times_over_calls(kernel: Any) -> None:
    world = World()
    world.failing, world.error = set(range(4)), Permanent("no")
    sub = await kernel.subscribe(world.handle, Thing)
    await kernel.append(*(Thing(str(n), n) for n in range(4)))
    await kernel.batch(await kernel.hold(sub))
    await kernel.operations.redrive(ALL, rate=2.0, limit=2)
    await kernel.operations.redrive(ALL, rate=2.0, limit=2)
    now = kernel.clock.now_us()
    dues = [row[0] - now for row in await kernel.rows("SELECT due FROM millstream_lanes ORDER BY due")]
    assert dues == [0, 500_000, 1_000_000, 1_500_000]


async def test_f2_filters_mean_what_they_say_and_unknown_names_are_refused(kernel: Any) -> None:
    protocol: Operations = kernel.operations
    _, _ = await dead(kernel, [1, 2], 1)
    await kernel.clock.advance(1)
    await kernel.append(Record(b"no json"))
    c = await kernel.hold_again("sub")
    await kernel.batch(c)

    async def ids(**conditions: Any) -> list[int]:
        return [row.id for row in await protocol.dead_letters(DeadLetterFilter(**conditions))]

    assert await ids() == [1, 2]
    assert await ids(key="a") == await ids(type="Thing") == await ids(reason="never WORK") == [1]
    assert await ids(reason="100%") == await ids(type="Other") == []
    assert await ids(after_id=1) == await ids(reason="undecodable") == [2]
    assert await ids(before_us=kernel.clock.now_us()) == [1]
    assert (await protocol.drop(DeadLetterFilter(type="Thing"), dry_run=True)).matched == 1
    assert (await protocol.redrive(ALL, dry_run=True)).matched == 1, "what cannot be read can only be dropped"
    for wrong in (DeadLetterFilter(subscription="nobody"), DeadLetterFilter(topic="nothing")):
        with pytest.raises(Refused, match=r"there are: (sub|things)"):
            await protocol.dead_letters(wrong)
    with pytest.raises(Refused):
        await protocol.redrive(DeadLetterFilter(ids=(2,)))
    with pytest.raises(Refused):
        await protocol.redrive(DeadLetterFilter(ids=(1,)), edit=b"{")
    letter = await protocol.dead_letter(1)
    assert letter is not None
    assert letter.behind == 1
    assert "it can never work" in letter.error
    assert msgspec.json.decode(letter.message)["data"] == {"key": "a", "value": 1}
