"""The inbox: what a subscription has accepted, unique by (subscription, source, id).

It can forget only what cannot come back as new (rule C8). Per (subscription, partition, source) the store keeps the
newest message time it accepted, capped by its own clock. Rows older than that minus the retention are purged, and a
message older than that bound which the inbox does not know is never run: nobody can tell any more whether it ran.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..ports.store import Session
from .claims import Claim
from .prepared import Prepared

__all__ = ["Admission", "admit", "purge"]

_COLUMNS = ("subscription", "source", "id", "partition", "time")
_WATERMARK = """
INSERT INTO millstream_watermarks (subscription, partition, source, newest) VALUES (?, ?, ?, ?)
ON CONFLICT (subscription, partition, source) DO UPDATE SET newest = excluded.newest
WHERE millstream_watermarks.newest < excluded.newest
"""

Admission = list[str]
"""For each message of a batch: `new`, `known` (a repeat) or `old` (older than the inbox remembers)."""


async def admit(session: Session, claim: Claim, batch: Sequence[Prepared], now_us: int, retention_us: int) -> Admission:
    """Write the inbox rows of a batch; say which messages are new. Undecodable ones have no identity and are new."""
    subscription, partition = claim.place
    marks = dict(
        await session.fetch(
            "SELECT source, newest FROM millstream_watermarks WHERE subscription = ? AND partition = ?",
            subscription,
            partition,
        )
    )
    seen: set[tuple[str, str]] = set()
    rows: list[tuple[int, str, str, int, int]] = []
    places: list[int] = []
    result: Admission = ["new"] * len(batch)
    for index, item in enumerate(batch):
        message = item.message
        if not message.id:
            continue
        identity = (message.source, message.id)
        if identity in seen:
            result[index] = "known"
            continue
        seen.add(identity)
        rows.append((subscription, message.source, message.id, partition, item.time_us or now_us))
        places.append(index)
    raised: dict[str, int] = {}
    for index, row, new in zip(places, rows, await session.insert_new("millstream_inbox", _COLUMNS, rows), strict=True):
        if not new:
            result[index] = "known"
            continue
        source, time_us = row[1], min(row[4], now_us)
        newest = marks.get(source, 0)
        if time_us < newest - retention_us:
            result[index] = "old"
        elif time_us > newest and time_us > raised.get(source, 0):
            raised[source] = time_us
    for source, newest in raised.items():
        await session.execute(_WATERMARK, subscription, partition, source, newest)
    return result


async def purge(
    session: Session, after: tuple[int, str, str], retention_us: int, limit: int
) -> tuple[tuple[int, str, str] | None, int]:
    """Look at `limit` rows behind `after` in key order and delete those that cannot come back as new.

    Returns where to go on (None at the end) and how many rows went. A walk over the key needs no index on time, which
    every insert would have to pay for.
    """
    rows = await session.fetch(
        "SELECT i.subscription, i.source, i.id, i.time < w.newest - ? FROM millstream_inbox i "
        "LEFT JOIN millstream_watermarks w ON w.subscription = i.subscription AND w.partition = i.partition "
        "AND w.source = i.source WHERE (i.subscription, i.source, i.id) > (?, ?, ?) "
        "ORDER BY i.subscription, i.source, i.id LIMIT ?",
        retention_us,
        *after,
        limit,
    )
    gone = [row[:3] for row in rows if row[3]]
    await session.execute_many("DELETE FROM millstream_inbox WHERE subscription = ? AND source = ? AND id = ?", gone)
    return (rows[-1][:3] if len(rows) == limit else None), len(gone)
