"""Lanes: the sequence of one (subscription, tenant, key). A lane row exists while anything of it is parked, or while
a dead letter holds it (rule F1); who has a row makes the messages behind wait their turn in the store.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ports.store import Row, Session
from .claims import Claim
from .prepared import Prepared

__all__ = [
    "GAP",
    "HELD",
    "RUNNING",
    "UNKNOWN",
    "WAITING",
    "Lane",
    "Parked",
    "close_or_continue",
    "hold",
    "lanes_among",
    "look_for_any",
    "next_due",
    "park",
    "set_lane",
]

WAITING, HELD, RUNNING, UNKNOWN, GAP = 0, 1, 2, 3, 4
CHUNK = 250

_PARK = """
INSERT INTO millstream_parked
(subscription, partition, tenant, key, layout, position, value, attempts, starts, error, since)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_OPEN = """
INSERT INTO millstream_lanes (subscription, partition, tenant, key, state, due) VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""

Lane = tuple[str, str]
"""(tenant, key)"""


def look_for_any(session: Session, claim: Claim) -> list[Row]:
    """Queue the question whether any lane of the claim has a row. Ask after the claim was written (rule C1).

    The answer is in the list once what is queued has run: no rows, no lanes.
    """
    found: list[Row] = []
    session.queue_fetch(
        "SELECT 1 FROM millstream_lanes WHERE subscription = ? AND partition = ? LIMIT 1", claim.place, found.extend
    )
    return found


async def lanes_among(session: Session, claim: Claim, batch: Sequence[Prepared], found_any: list[Row]) -> set[Lane]:
    """Which lanes of a batch have a row now. `found_any`: what `look_for_any` found, in this transaction."""
    if not found_any:
        return set()
    wanted = list({(item.tenant, item.key) for item in batch})
    found: set[Lane] = set()
    for start in range(0, len(wanted), CHUNK):
        chunk = wanted[start : start + CHUNK]
        marks = ", ".join(["(?, ?)"] * len(chunk))
        found.update(
            (row[0], row[1])
            for row in await session.fetch(
                f"SELECT tenant, key FROM millstream_lanes WHERE subscription = ? AND partition = ? "  # noqa: S608 - only marks are put in
                f"AND (tenant, key) IN (VALUES {marks})",
                *claim.place,
                *(part for lane in chunk for part in lane),
            )
        )
    return found


async def park(session: Session, claim: Claim, items: Sequence[Parked]) -> None:
    """Store messages in their lanes. A lane that has no row yet gets one in the state of its first message here."""
    await session.execute_many(_OPEN, [(*claim.place, i.tenant, i.key, i.state, i.due) for i in items])
    await session.execute_many(
        _PARK,
        [
            (*claim.place, i.tenant, i.key, i.layout, i.position, i.value, i.attempts, i.starts, i.error, i.since)
            for i in items
        ],
    )


class Parked:
    """A message to be parked, with the state its lane takes if it has none."""

    __slots__ = ("attempts", "due", "error", "key", "layout", "position", "since", "starts", "state", "tenant", "value")

    def __init__(
        self,
        item: Prepared,
        now_us: int,
        *,
        due: int | None = None,
        state: int = WAITING,
        attempts: int = 0,
        starts: int = 0,
        error: str = "",
    ) -> None:
        self.tenant = item.tenant
        self.key = item.key
        self.layout = item.layout
        self.position = item.position
        self.value = item.value
        self.since = now_us
        self.due = now_us if due is None else due
        self.state = state
        self.attempts = attempts
        self.starts = starts
        self.error = error


async def set_lane(session: Session, claim: Claim, tenant: str, key: str, state: int, due: int) -> None:
    """Put a lane into a state."""
    await session.execute(
        "UPDATE millstream_lanes SET state = ?, due = ? "
        "WHERE subscription = ? AND partition = ? AND tenant = ? AND key = ?",
        state,
        due,
        *claim.place,
        tenant,
        key,
    )


async def hold(session: Session, claim: Claim, tenant: str, key: str, now_us: int) -> None:
    """Hold a lane behind a dead letter, whether or not it has a row yet."""
    await session.execute(
        "INSERT INTO millstream_lanes (subscription, partition, tenant, key, state, due) VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (subscription, partition, tenant, key) DO UPDATE SET state = excluded.state, due = excluded.due",
        *claim.place,
        tenant,
        key,
        HELD,
        now_us,
    )


async def close_or_continue(session: Session, claim: Claim, tenant: str, key: str, now_us: int) -> None:
    """After the head left: the lane goes on at once with what is parked behind it, or its row goes."""
    row = await session.fetch_one(
        "SELECT 1 FROM millstream_parked WHERE subscription = ? AND partition = ? AND tenant = ? AND key = ? LIMIT 1",
        *claim.place,
        tenant,
        key,
    )
    if row is not None:
        await set_lane(session, claim, tenant, key, WAITING, now_us)
    else:
        await session.execute(
            "DELETE FROM millstream_lanes WHERE subscription = ? AND partition = ? AND tenant = ? AND key = ?",
            *claim.place,
            tenant,
            key,
        )


async def next_due(session: Session, claim: Claim) -> int | None:
    """When the next waiting lane is due, in microseconds; None if none waits."""
    row = await session.fetch_one(
        "SELECT due FROM millstream_lanes WHERE subscription = ? AND partition = ? AND state = 0 ORDER BY due LIMIT 1",
        *claim.place,
    )
    return None if row is None else row[0]
