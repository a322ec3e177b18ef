"""Rules C1, C4, C5, C9, C10: who may consume, and what a holder's death means for the messages it had in hand."""

from __future__ import annotations

from typing import Any

import pytest
from millstream import Event
from millstream.delivery import claims
from millstream.delivery.parking import Concluded, GivenBack, Started
from millstream.errors import ClaimLost, StoreUnavailable


class Thing(Event, topic="things", key="key"):
    key: str
    value: int = 0


class Made(Event, topic="made", key="key"):
    key: str


async def apply(event: Thing, tx: Any) -> None:
    await tx.execute("INSERT INTO applied (key, value) VALUES (?, ?)", event.key, event.value)


async def test_c1_a_replaced_holder_changes_nothing(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    await kernel.append(Thing("a"))
    zombie = await kernel.hold(sub)
    await kernel.clock.advance(kernel.limits.lease_seconds + 1)
    await kernel.hold(sub, owner="w2")
    with pytest.raises(ClaimLost):
        await kernel.batch(zombie)
    with pytest.raises(ClaimLost):
        await kernel.turn(zombie)
    assert await kernel.rows("SELECT * FROM applied") == []
    assert await kernel.one("SELECT position FROM millstream_claims WHERE subscription = ?", sub.id) == 0


async def test_c1_a_position_that_moved_stops_a_holder_of_the_right_epoch(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    await kernel.append(Thing("a"), Thing("b"))
    c = await kernel.hold(sub)
    assert await kernel.operations.skip("sub", 0, 1) == 0
    with pytest.raises(ClaimLost):
        await kernel.batch(c)
    assert await kernel.rows("SELECT * FROM applied") == []


async def test_c1_lane_state_is_read_after_the_claim_in_the_same_transaction(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    c = await kernel.hold(sub)
    await kernel.append(Thing("a", 1))
    # Between two batches an operator's transaction opens the lane; a memory of the earlier state would overtake it.
    await kernel.run("INSERT INTO millstream_lanes VALUES (?, 0, '', 'a', 1, 0)", sub.id)
    await kernel.batch(c)
    assert await kernel.rows("SELECT * FROM applied") == []
    assert await kernel.one("SELECT COUNT(*) FROM millstream_parked") == 1


async def test_c1_a_live_claim_is_not_taken_and_expiry_is_by_the_stores_clock(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    c = await kernel.hold(sub)

    async def take(session: Any) -> Any:
        return await claims.take(session, c.claim.subscription, c.claim.partition, "w2", kernel.limits.lease_us, 500)

    assert await kernel.store.transact(take) is None
    await kernel.clock.advance(kernel.limits.lease_seconds - 1)
    await kernel.append(Thing("a"))
    await kernel.batch(c)  # work is a sign of life
    await kernel.clock.advance(2)
    assert await kernel.store.transact(take) is None
    await kernel.clock.advance(kernel.limits.lease_seconds)
    assert (await kernel.store.transact(take)).epoch == c.claim.epoch + 1


async def test_c4_after_an_unclean_takeover_the_messages_in_hand_run_alone(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    await kernel.append(*(Thing(k, n) for n, k in enumerate("abc")))
    await kernel.hold(sub)  # dies without releasing
    await kernel.clock.advance(kernel.limits.lease_seconds + 1)
    c = await kernel.hold(sub, owner="w2")
    await kernel.batch(c)
    assert await kernel.rows("SELECT * FROM applied") == [], "they must not run in a batch"
    marked = list[Started]()
    for applied in range(4):
        turn = await kernel.turn(c, marked)
        marked = turn.started
        assert len(await kernel.rows("SELECT * FROM applied")) == applied
        assert len(marked) == (1 if applied < 3 else 0), "a suspect runs alone"


async def test_c4_a_suspect_does_not_run_in_one_turn_with_others(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    await kernel.append(Thing("a", 1), Thing("b", 2))
    for key, due in (("a", 0), ("b", 1)):
        await kernel.run("INSERT INTO millstream_lanes VALUES (?, 0, '', ?, 0, ?)", sub.id, key, due)
    c = await kernel.hold(sub)
    await kernel.batch(c)
    await kernel.run("UPDATE millstream_parked SET starts = 1 WHERE key = 'b'")  # its holder died of it, perhaps
    turn = await kernel.turn(c)
    assert [started.item.key for started in turn.started] == ["a"]
    turn = await kernel.turn(c, turn.started)
    assert [started.item.key for started in turn.started] == ["b"]


async def test_c4_a_clean_release_makes_nobody_suspect(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    await kernel.append(Thing("a"))
    c = await kernel.hold(sub)
    await kernel.store.transact(lambda s: claims.release(s, c.claim))
    c = await kernel.hold(sub, owner="w2")
    assert c.claim.suspect == 0
    await kernel.batch(c)
    assert len(await kernel.rows("SELECT * FROM applied")) == 1


async def test_c4_suspicion_shrinks_with_the_position_and_covers_more_than_one_message(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    await kernel.append(*(Thing(f"k{n}", n) for n in range(4)))
    await kernel.hold(sub)
    await kernel.clock.advance(kernel.limits.lease_seconds + 1)
    c = await kernel.hold(sub, owner="w2")
    assert c.claim.suspect == kernel.limits.batch_messages
    await kernel.batch(c, limit=2)
    assert await kernel.one("SELECT suspect FROM millstream_claims WHERE subscription = ?", sub.id) == (
        kernel.limits.batch_messages - 2
    )


async def test_c4_an_outcome_counts_only_for_the_start_that_ran(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing, effect=True)
    await kernel.append(Thing("a"))
    c = await kernel.hold(sub)
    await kernel.batch(c)
    (started,) = (await kernel.turn(c)).started
    await kernel.run("UPDATE millstream_parked SET starts = starts + 1")  # somebody else started it again
    with pytest.raises(ClaimLost):
        await kernel.turn(c, concluded=[Concluded(started)])


async def test_c5_starts_never_given_back_make_a_dead_letter_called_crashed(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing)
    await kernel.append(Thing("a"))
    await kernel.hold(sub)
    death = 0
    for death in range(10):  # every holder dies while it runs the message
        await kernel.clock.advance(kernel.limits.lease_seconds + 1)
        c = await kernel.hold(sub, owner=f"w{death}")
        if death == 0:
            await kernel.batch(c)
        if not (await kernel.turn(c)).started:
            break
    assert await kernel.rows("SELECT reason, attempts FROM millstream_dead_letters") == [("crashed", 0)]
    assert death == kernel.limits.crash_starts - 1


async def test_c5_a_start_that_is_given_back_is_no_crash_and_no_attempt(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing, effect=True)
    await kernel.append(Thing("a"))
    c = await kernel.hold(sub)
    await kernel.batch(c)
    for _ in range(kernel.limits.crash_starts + 2):
        (started,) = (await kernel.turn(c)).started
        await kernel.turn(c, concluded=[Concluded(started, error=GivenBack())], room=0)
    assert await kernel.rows("SELECT starts, attempts FROM millstream_parked") == [(0, 0)]


async def test_c5_the_store_being_away_blames_no_message(kernel: Any) -> None:
    async def handle(event: Thing, tx: Any) -> None:
        raise StoreUnavailable("disk full")

    sub = await kernel.subscribe(handle, Thing)
    await kernel.append(Thing("a"))
    c = await kernel.hold(sub)
    with pytest.raises(StoreUnavailable):
        await kernel.batch(c)
    assert await kernel.one("SELECT COUNT(*) FROM millstream_parked") == 0
    assert await kernel.one("SELECT position FROM millstream_claims WHERE subscription = ?", sub.id) == 0


async def test_c9_the_claim_row_comes_first_and_the_outbox_last(kernel: Any) -> None:
    async def handle(event: Thing, tx: Any) -> Made:
        if event.value < 0:
            raise ValueError("parked")
        await tx.execute("INSERT INTO applied (key) VALUES (?)", event.key)
        return Made(event.key)

    sub = await kernel.subscribe(handle, Thing)
    await kernel.append(Thing("a"), Thing("b", -1), Thing("c"))
    c = await kernel.hold(sub)
    written: list[str] = []

    def trace(_cursor: Any, sql: str, _bindings: Any) -> bool:
        words = sql.split()
        if words[0] in ("INSERT", "UPDATE", "DELETE"):
            written.append(words[words.index("INTO") + 1 if words[0] == "INSERT" else 1 if words[0] == "UPDATE" else 2])
        return True

    writer = kernel.store.file._writer
    writer.exec_trace = trace
    await kernel.batch(c)
    writer.exec_trace = None
    assert written[0] == "millstream_claims"
    assert written.count("millstream_claims") == 1, "one claim row, and never two"
    assert written[-2:] == ["millstream_outbox", "millstream_outbox"]
    assert written.index("millstream_inbox") < written.index("applied") < written.index("millstream_outbox")


async def test_c10_claims_are_divided_by_rank_and_what_stays_free_is_taken_by_anybody(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing, partitions=4)
    lease_us = kernel.limits.lease_us
    # A new claim counts as free since ever: release them now, so that they have just become free.
    await kernel.run("UPDATE millstream_claims SET expires = millstream_now()")
    for worker in ("a", "b"):
        await kernel.store.transact(lambda s, w=worker: claims.renew(s, w, lease_us))

    async def wanted(worker: str) -> list[int]:
        places = (await kernel.store.transact(lambda s: claims.divide(s, worker, lease_us))).wanted
        return [partition for subscription, partition in places if subscription == sub.id]

    assert (await wanted("a"), await wanted("b")) == ([0, 2], [1, 3])
    await kernel.clock.advance(kernel.limits.lease_seconds * 2 / 3)
    await kernel.store.transact(lambda s: claims.renew(s, "a", lease_us))
    await kernel.clock.advance(kernel.limits.lease_seconds / 2)  # b gave no sign of life for more than a lease
    assert await wanted("a") == [0, 1, 2, 3]


async def test_c10_what_stays_free_for_a_lease_goes_to_another_worker(kernel: Any) -> None:
    sub = await kernel.subscribe(apply, Thing, partitions=2)
    lease_us = kernel.limits.lease_us
    await kernel.run("UPDATE millstream_claims SET expires = millstream_now()")
    for _ in range(4):  # both are alive, but b takes nothing
        for worker in ("a", "b"):
            await kernel.store.transact(lambda s, w=worker: claims.renew(s, w, lease_us))
        await kernel.clock.advance(kernel.limits.lease_seconds / 3)
    places = (await kernel.store.transact(lambda s: claims.divide(s, "a", lease_us))).wanted
    assert places == [(sub.id, 0), (sub.id, 1)]
