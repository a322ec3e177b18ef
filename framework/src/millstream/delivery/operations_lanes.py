"""The operator's view of lanes and positions, and moving a position forward (rules C1, F1)."""

from __future__ import annotations

from collections.abc import Collection

from ..errors import Refused
from ..ports.store import Param, Session, Store
from .dead_letters import HOLDS
from .lanes import HELD
from .operations_api import LaneRow, LaneState, PositionRow

__all__ = ["known_subscriptions", "lane_rows", "position_rows", "skip"]

LARGEST_PAGE = 1_000

_OF_LANE = (
    "{0}.subscription = l.subscription AND {0}.partition = l.partition AND {0}.tenant = l.tenant AND {0}.key = l.key"
)
_PARKED, _LETTER = _OF_LANE.format("p"), _OF_LANE.format("d")
_LANES = f"""
SELECT s.name, s.topic, l.partition, l.key, l.tenant, l.state, l.due,
    (SELECT COUNT(*) FROM millstream_parked p WHERE {_PARKED}),
    COALESCE(
        (SELECT MAX(d.died) FROM millstream_dead_letters d WHERE {_LETTER} AND d.lane = ? AND l.state = ?),
        (SELECT MIN(p.since) FROM millstream_parked p WHERE {_PARKED}), l.due
    ) AS since,
    l.subscription
FROM millstream_lanes l JOIN millstream_subscriptions s ON s.id = l.subscription
"""  # noqa: S608 - constants
_HEAD = """
SELECT attempts, error FROM millstream_parked
WHERE subscription = ? AND partition = ? AND tenant = ? AND key = ? ORDER BY layout, position LIMIT 1
"""
_HOLDER = """
SELECT attempts, error FROM millstream_dead_letters
WHERE subscription = ? AND partition = ? AND tenant = ? AND key = ? AND lane = 2 ORDER BY id DESC LIMIT 1
"""
_POSITIONS = """
SELECT s.name, s.topic, c.partition, c.position, c.owner, c.epoch, c.expires,
    (SELECT COUNT(*) FROM millstream_parked p WHERE p.subscription = c.subscription AND p.partition = c.partition),
    (SELECT COUNT(*) FROM millstream_dead_letters d
        WHERE d.subscription = c.subscription AND d.partition = c.partition)
FROM millstream_claims c JOIN millstream_subscriptions s ON s.id = c.subscription
"""


async def known_subscriptions(store: Store, service: str, asked: str | None) -> dict[str, tuple[int, str]]:
    """Id and topic of every subscription by name.

    Raises:
        Refused: `asked` is none of them.
    """
    rows = await store.query("SELECT name, id, topic FROM millstream_subscriptions ORDER BY name")
    known = {row[0]: (row[1], row[2]) for row in rows}
    if asked is not None and asked not in known:
        raise Refused(f"{service!r} has no subscription {asked!r}; there are: {', '.join(known) or 'none'}")
    return known


async def lane_rows(
    store: Store, service: str, subscription: str | None, key: str | None, state: LaneState | None, limit: int
) -> list[LaneRow]:
    """Lanes that do not flow, those waiting longest first."""
    await known_subscriptions(store, service, subscription)
    conditions: list[str] = []
    params: list[Param] = [HOLDS, HELD]
    for condition, value in (("s.name = ?", subscription), ("l.key = ?", key)):
        if value is not None:
            conditions.append(condition)
            params.append(value)
    if state is not None:
        conditions.append("l.state = ?" if state == "held" else "l.state <> ?")
        params.append(HELD)
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    rows = await store.scan(
        f"{_LANES}{where}ORDER BY since, l.subscription, l.partition, l.key LIMIT ?",
        *params,
        max(0, min(limit, LARGEST_PAGE)),
    )
    found: list[LaneRow] = []
    for name, topic, partition, lane_key, tenant, lane_state, due, parked, since, id_ in rows:
        held = lane_state == HELD
        head = await store.query(_HOLDER if held else _HEAD, id_, partition, tenant, lane_key)
        attempts, error = head[0] if head else (0, "")
        found.append(
            LaneRow(
                service=service,
                subscription=name,
                topic=topic,
                partition=partition,
                key=lane_key,
                tenant=tenant or None,
                state="held" if held else "parked",
                parked=parked,
                attempts=attempts,
                due_us=None if held else due,
                since_us=since,
                reason=shortened(error),
            )
        )
    return found


async def position_rows(
    store: Store, service: str, effects: Collection[str], subscription: str | None
) -> list[PositionRow]:
    """Every subscription and partition, ordered by both."""
    await known_subscriptions(store, service, subscription)
    where, params = ("WHERE s.name = ? ", (subscription,)) if subscription is not None else ("", ())
    rows = await store.scan(f"{_POSITIONS}{where}ORDER BY s.name, c.partition", *params)
    return [
        PositionRow(
            service=service,
            subscription=name,
            topic=topic,
            partition=partition,
            position=position,
            owner=owner,
            epoch=epoch,
            expires_us=expires,
            parked=parked,
            dead_letters=dead,
            effect=name in effects,
        )
        for name, topic, partition, position, owner, epoch, expires, parked, dead in rows
    ]


async def skip(store: Store, service: str, subscription: str, partition: int, to: int) -> int:
    """Move a position forward; return the old one. A holder that stands at the old one stops at its next batch (C1).

    Raises:
        Refused: the subscription or partition is not known, or `to` is not ahead of the position.
    """
    id_ = (await known_subscriptions(store, service, subscription))[subscription][0]

    async def work(session: Session) -> int:
        place = (id_, partition)
        await session.execute(
            "UPDATE millstream_claims SET position = position WHERE subscription = ? AND partition = ?", *place
        )
        row = await session.fetch_one(
            "SELECT position FROM millstream_claims WHERE subscription = ? AND partition = ?", *place
        )
        if row is None:
            raise Refused(f"subscription {subscription!r} has no partition {partition}")
        if to <= row[0]:
            raise Refused(f"{subscription!r} stands at {row[0]} in partition {partition}; {to} is not ahead of that")
        await session.execute(
            "UPDATE millstream_claims SET position = ? WHERE subscription = ? AND partition = ?", to, *place
        )
        return row[0]

    return await store.transact(work)


def shortened(text: str, length: int = 200) -> str:
    """The first line of an error, at most `length` characters of it."""
    line = text.partition("\n")[0]
    return line if len(line) <= length else f"{line[: length - 1]}…"
