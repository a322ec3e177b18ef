"""Making a subscription known to its store: its row, its claims, where it begins, which types it has ever handled."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from ..errors import Misconfigured
from ..ports.store import Session
from .claims import RELAY
from .subscription import Start, Subscription

__all__ = ["Registered", "register", "register_relay"]


class Registered(msgspec.Struct, frozen=True, eq=False):
    """A subscription as its store knows it."""

    subscription: Subscription
    id: int
    generation: int
    partitions: int
    recorded: Mapping[str, int]


async def register(
    session: Session,
    subscription: Subscription,
    partitions: int,
    begin: Mapping[int, int],
    start: Start | None,
    used: bool,
) -> Registered:
    """Create or update the row of a subscription and its claims.

    begin: position of each partition's end, for a new subscription that starts `now`.
    start: what an operator said about names that a used store does not know; None: nothing.
    used: whether the store already had subscriptions before this start.

    Raises:
        Misconfigured: an unknown name on a used store without `start`; a topic or a partition count that changed.
    """
    row = await session.fetch_one(
        "SELECT id, topic, partitions, generation, events FROM millstream_subscriptions WHERE name = ?",
        subscription.name,
    )
    declared = {e.name: e.version for e in subscription.events}
    if row is None:
        if used and start is None:
            raise Misconfigured(
                f"subscription {subscription.name!r} is new to the store of {subscription.service!r}, which has been "
                "in use: say where it begins with --from earliest or --from now (or give the handler its old name)"
            )
        from_now = (start or subscription.start) == "now"
        await session.execute(
            "INSERT INTO millstream_subscriptions (name, topic, partitions, events, created) "
            "VALUES (?, ?, ?, ?, millstream_now()) ON CONFLICT (name) DO NOTHING",  # another process may start with us
            subscription.name,
            subscription.topic,
            partitions,
            msgspec.json.encode(declared).decode(),
        )
        found = await session.fetch_one("SELECT id FROM millstream_subscriptions WHERE name = ?", subscription.name)
        assert found is not None
        id_, generation, recorded = found[0], 0, declared
        for partition in range(partitions):
            await _claim(session, id_, partition, begin[partition] if from_now else 0)
        return Registered(subscription, id_, generation, partitions, recorded)
    id_, topic, count, generation, events = row
    if topic != subscription.topic:
        raise Misconfigured(
            f"subscription {subscription.name!r} read topic {topic!r} so far, now it declares {subscription.topic!r}: "
            "give it a new name"
        )
    if count != partitions:
        raise Misconfigured(
            f"topic {topic!r} has {partitions} partitions, subscription {subscription.name!r} was set up for {count}: "
            "changing the count is drain and switch"
        )
    recorded = msgspec.json.decode(events, type=dict[str, int])
    grown = {name: max(version, recorded.get(name, 0)) for name, version in declared.items()}
    merged = {**recorded, **grown}
    if merged != recorded:
        await session.execute(
            "UPDATE millstream_subscriptions SET events = ? WHERE id = ?", msgspec.json.encode(merged).decode(), id_
        )
    return Registered(subscription, id_, generation, partitions, merged)


async def register_relay(session: Session, shards: int) -> None:
    """Create the claims of the relay's shards."""
    for shard in range(shards):
        await _claim(session, RELAY, shard, 0)


async def _claim(session: Session, subscription: int, partition: int, position: int) -> None:
    await session.execute(
        "INSERT INTO millstream_claims (subscription, partition, position) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
        subscription,
        partition,
        position,
    )
