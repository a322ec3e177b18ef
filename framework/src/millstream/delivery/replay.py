"""Replay: a new generation of a subscription reads the log again (rule F5).

Replays are for projections: handlers that build a view in their own store, after the view was emptied. So for the
messages that the log held when the replay began

- events that the handler emits are not published, unless asked for: the generation is part of their ids (rule T6), so
  every subscription downstream would take them for new and apply them a second time;
- effects do not run, unless asked for: replaying an effect's subscription without that is refused. Asked for, its calls
  carry the same idempotency keys as before.

Messages behind them are handled as ever.

A generation is a new subscription id under the same name. Its inbox is empty, the rows of the former one are purged by
and by, and the former claims are gone: a holder that still runs finds no claim row and stops (rule C1). Workers learn
of the new id from `registration_of`.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..errors import Misconfigured, Refused, Undecodable
from ..message import decode_message, parse_time
from ..ports.store import Session, Store
from ..ports.transport import Transport
from .registration import Registered
from .subscription import Subscription

__all__ = ["Replay", "muted_until", "position_at", "prepare_replay", "registration_of", "replay"]

_LEFT_BEHIND = ("millstream_parked", "millstream_lanes", "millstream_dead_letters")


class Replay(msgspec.Struct, frozen=True):
    """What to read again.

    begin: position of each partition behind which the new generation starts. until: where the log ended; messages up
    to there count as replayed. drop_parked: forget what the former generation has parked or as dead letters; its
    messages come again as far as they stand behind `begin`.
    """

    begin: Mapping[int, int]
    until: Mapping[int, int]
    drop_parked: bool = False
    publish_events: bool = False
    run_effects: bool = False


async def prepare_replay(
    transport: Transport,
    topic: str,
    *,
    since_us: int | None = None,
    position: int | None = None,
    drop_parked: bool = False,
    publish_events: bool = False,
    run_effects: bool = False,
) -> Replay:
    """Look at the log: from its beginning, from the first message written at `since_us`, or behind a position.

    Raises:
        Misconfigured: the topic is not provisioned.
        Refused: the log does not reach back to `position`.
    """
    count = await transport.partitions(topic)
    if count is None:
        raise Misconfigured(f"topic {topic!r} is not provisioned")
    begin: dict[int, int] = {}
    until: dict[int, int] = {}
    for partition in range(count):
        bounds = await transport.bounds(topic, partition)
        until[partition] = bounds.latest
        begin[partition] = bounds.earliest
        if since_us is not None:
            begin[partition] = await position_at(transport, topic, partition, since_us)
        elif position is not None:
            if not bounds.earliest <= position <= bounds.latest:
                raise Refused(
                    f"{topic}/{partition} holds what is behind position {bounds.earliest}, up to {bounds.latest}; "
                    f"it cannot be read from {position}"
                )
            begin[partition] = position
    return Replay(begin, until, drop_parked, publish_events, run_effects)


async def position_at(transport: Transport, topic: str, partition: int, time_us: int) -> int:
    """The position before the first message written at `time_us` or later, found by bisection.

    The clocks of several producers differ: around the moment some messages may stand on the wrong side.
    """
    bounds = await transport.bounds(topic, partition)
    low, high = bounds.earliest, bounds.latest
    while low < high:
        middle = (low + high) // 2
        reader = transport.read(topic, partition, middle)
        try:
            (record,) = await reader.next(1)
        finally:
            await reader.aclose()
        try:
            written = parse_time(decode_message(record.value).time)
        except Undecodable:
            written = 0  # it says nothing: go on looking behind it
        if written < time_us:
            low = record.position
        else:
            high = middle
    return low


async def replay(session: Session, subscription: Subscription, plan: Replay) -> Registered:
    """Begin a new generation; the transaction's holders of the former one stop.

    It writes all claims of the subscription, partitions ascending: with the re-homing of rule C11 the one exception
    from "one claim a transaction", and as there no other transaction ever waits for a second claim.

    Raises:
        Refused: an effect without `run_effects`; parked messages or dead letters without `drop_parked`.
    """
    if subscription.effect and not plan.run_effects:
        raise Refused(f"{subscription.name!r} is an effect: replaying it repeats its calls; say so to run them again")
    former = await registration_of(session, subscription)
    # A holder inside a transaction keeps its claim row: this waits for its commit, and its next write finds no row.
    await session.execute("UPDATE millstream_claims SET epoch = epoch + 1 WHERE subscription = ?", former.id)
    await _leave_nothing(session, former, plan)
    row = await session.fetch_one(
        "SELECT COALESCE(MAX(fence), 0), COALESCE(MAX(epoch), 0) FROM millstream_claims WHERE subscription = ?",
        former.id,
    )
    assert row is not None
    await session.execute("DELETE FROM millstream_subscriptions WHERE id = ?", former.id)
    await session.execute(
        "INSERT INTO millstream_subscriptions (name, topic, partitions, generation, events, created) "
        "VALUES (?, ?, ?, ?, ?, millstream_now())",
        subscription.name,
        subscription.topic,
        former.partitions,
        former.generation + 1,
        msgspec.json.encode(dict(former.recorded)).decode(),
    )
    renewed = await registration_of(session, subscription)
    for table in ("millstream_claims", "millstream_sequences", "millstream_replays"):
        await session.execute(f"DELETE FROM {table} WHERE subscription = ?", former.id)  # noqa: S608 - names from above
    # Fences go on growing: the outside world must not refuse the new generation's calls (rule F4).
    await session.execute_many(
        "INSERT INTO millstream_claims (subscription, partition, position, fence, epoch) VALUES (?, ?, ?, ?, ?)",
        [(renewed.id, partition, plan.begin[partition], *row) for partition in range(former.partitions)],
    )
    if not plan.publish_events:
        await session.execute_many(
            "INSERT INTO millstream_replays (subscription, partition, until) VALUES (?, ?, ?)",
            [(renewed.id, partition, plan.until[partition]) for partition in range(former.partitions)],
        )
    return renewed


async def registration_of(session: Session, subscription: Subscription) -> Registered:
    """A subscription as its store knows it now: its id and generation change when a replay begins.

    Raises:
        Refused: the store does not know the name.
    """
    row = await session.fetch_one(
        "SELECT id, generation, partitions, events FROM millstream_subscriptions WHERE name = ?", subscription.name
    )
    if row is None:
        raise Refused(f"the store of {subscription.service!r} knows no subscription {subscription.name!r}")
    return Registered(subscription, row[0], row[1], row[2], msgspec.json.decode(row[3], type=dict[str, int]))


async def muted_until(store: Store, subscription: int, partition: int) -> int:
    """The last position whose events are not published; 0 when nothing is replayed. It never changes for an id."""
    rows = await store.query(
        "SELECT until FROM millstream_replays WHERE subscription = ? AND partition = ?", subscription, partition
    )
    return rows[0][0] if rows else 0


async def _leave_nothing(session: Session, former: Registered, plan: Replay) -> None:
    if not plan.drop_parked:
        left = await session.fetch_one(
            "SELECT (SELECT COUNT(*) FROM millstream_parked WHERE subscription = ?), "
            "(SELECT COUNT(*) FROM millstream_dead_letters WHERE subscription = ?)",
            former.id,
            former.id,
        )
        if left is not None and (left[0] or left[1]):
            raise Refused(
                f"{former.subscription.name!r} has {left[0]} parked messages and {left[1]} dead letters of its present "
                "generation: let them finish, or say that they may be dropped"
            )
    for table in _LEFT_BEHIND:
        await session.execute(f"DELETE FROM {table} WHERE subscription = ?", former.id)  # noqa: S608 - names from above
