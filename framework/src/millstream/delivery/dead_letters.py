"""Dead letters: messages that used up their attempts or can never be handled, and how they come back.

Redrive never goes through the log (rule F2): the letter returns to its own place in its lane, attempts 0, due now,
in a transaction that writes the claim row first, so that it cannot race with the lane's holder.
"""

from __future__ import annotations

from ..errors import Refused
from ..ports.store import Param, Row, Session
from .claims import Claim
from .lanes import GAP, HELD, UNKNOWN, WAITING

__all__ = ["HOLDS", "LANES_CHANNEL", "NO_LANE", "WENT_ON", "bury", "drop", "redrive"]

LANES_CHANNEL = "millstream_lanes"
"""Notified when an operator made a lane due."""
NO_LANE, WENT_ON, HOLDS = 0, 1, 2
"""What a letter means for its lane. A lane in state `HELD` has exactly one letter that holds it, its newest."""

_BURY = """
INSERT INTO millstream_dead_letters
(subscription, partition, tenant, key, lane, layout, position, value, attempts, reason, error, died)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


async def bury(
    session: Session,
    claim: Claim,
    *,
    tenant: str,
    key: str,
    lane: int,
    layout: int,
    position: int,
    value: bytes,
    attempts: int,
    reason: str,
    error: str,
    now_us: int,
) -> None:
    """Record a dead letter. What becomes of its lane is the caller's decision."""
    await session.execute(
        _BURY, *claim.place, tenant, key, lane, layout, position, value, attempts, reason, error, now_us
    )


async def redrive(session: Session, letter: int, value: bytes | None = None, delay_us: int = 0) -> None:
    """Move a letter back to its place in its lane, due after `delay_us`; `value` is an edited message in that place.

    If another letter holds the lane, this one waits in its place until that one is decided about.

    Raises:
        Refused: there is no such letter any more, or its message could not even be read.
    """
    row = await _claimed(session, letter)
    subscription, partition, tenant, key, lane, layout, position, stored = row
    if lane == NO_LANE and not key:
        raise Refused(f"dead letter {letter} has no readable envelope; look at it and drop it")
    await session.execute("DELETE FROM millstream_dead_letters WHERE id = ?", letter)
    resumed = (WAITING, UNKNOWN, GAP, HELD if lane == HOLDS else WAITING)
    await session.execute(
        "INSERT INTO millstream_lanes (subscription, partition, tenant, key, state, due) "
        "VALUES (?, ?, ?, ?, ?, millstream_now() + ?) ON CONFLICT (subscription, partition, tenant, key) DO UPDATE SET "
        "state = CASE WHEN millstream_lanes.state IN (?, ?, ?, ?) THEN excluded.state ELSE millstream_lanes.state END, "
        "due = CASE WHEN millstream_lanes.state = excluded.state AND millstream_lanes.due < excluded.due "
        "THEN millstream_lanes.due ELSE excluded.due END",
        subscription,
        partition,
        tenant,
        key,
        WAITING,
        delay_us,
        *resumed,
    )
    await session.execute(
        "INSERT INTO millstream_parked (subscription, partition, tenant, key, layout, position, value, attempts, "
        "starts, error, since) VALUES (?, ?, ?, ?, ?, ?, ?, 0, 0, '', millstream_now())",
        subscription,
        partition,
        tenant,
        key,
        layout,
        position,
        stored if value is None else value,
    )
    session.notify(LANES_CHANNEL)


async def drop(session: Session, letter: int) -> None:
    """Forget a letter for good. A lane that it held goes on.

    Raises:
        Refused: there is no such letter any more.
    """
    subscription, partition, tenant, key, holding = (await _claimed(session, letter))[:5]
    await session.execute("DELETE FROM millstream_dead_letters WHERE id = ?", letter)
    if holding != HOLDS:
        return
    lane: tuple[Param, ...] = (subscription, partition, tenant, key)
    where = "WHERE subscription = ? AND partition = ? AND tenant = ? AND key = ?"
    if await session.fetch_one(f"SELECT 1 FROM millstream_parked {where} LIMIT 1", *lane):  # noqa: S608 - a constant
        await session.execute(
            f"UPDATE millstream_lanes SET state = ?, due = millstream_now() {where} AND state = ?",  # noqa: S608 - a constant
            WAITING,
            *lane,
            HELD,
        )
        session.notify(LANES_CHANNEL)
    else:
        await session.execute(f"DELETE FROM millstream_lanes {where} AND state = ?", *lane, HELD)  # noqa: S608 - a constant


async def _claimed(session: Session, letter: int) -> Row:
    """The letter's row, read after its claim row was written."""
    found = await session.fetch_one("SELECT subscription, partition FROM millstream_dead_letters WHERE id = ?", letter)
    if found is not None:
        await session.execute(
            "UPDATE millstream_claims SET position = position WHERE subscription = ? AND partition = ?", *found
        )
        found = await session.fetch_one(
            "SELECT subscription, partition, tenant, key, lane, layout, position, value "
            "FROM millstream_dead_letters WHERE id = ?",
            letter,
        )
    if found is None:
        raise Refused(f"there is no dead letter {letter}; it was redriven or dropped already")
    return found
