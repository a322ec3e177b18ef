"""The operator's view of the outbox: its depth, and keys that the log refused for good (rule R3).

A held key is decided about under its own row, not under a claim: the relay deletes by exact ids after a confirmation,
and a refused row is never confirmed, so there is nobody to race with.
"""

from __future__ import annotations

from ..errors import Refused, Undecodable
from ..message import decode_message, parse_time
from ..ports.store import Row, Session, Store
from .operations_api import HeldKey, HeldRow, OutboxState
from .operations_letters import edited
from .outbox import OUTBOX_CHANNEL

__all__ = ["drop_row", "edit_row", "free_key", "held_row", "outbox_state"]

LARGEST_PAGE = 1_000

_HELD = """
SELECT h.topic, h.key, h.row_id, h.reason, h.since,
    (SELECT COUNT(*) FROM millstream_outbox o WHERE o.topic = h.topic AND (o.key = h.key OR o.id = h.row_id))
FROM millstream_held_keys h
"""


async def outbox_state(store: Store, service: str) -> OutboxState:
    """Depth, age and held keys; the oldest thousand of these."""
    depth = (await store.scan("SELECT COUNT(*) FROM millstream_outbox"))[0][0]
    oldest = await store.query("SELECT value FROM millstream_outbox ORDER BY id LIMIT 1")
    timers = await store.scan("SELECT COUNT(*), MIN(due) FROM millstream_timers")
    held = await store.scan(f"{_HELD}ORDER BY h.since, h.topic, h.key LIMIT ?", LARGEST_PAGE)
    return OutboxState(
        service=service,
        depth=depth,
        oldest_us=_written(oldest[0][0]) if oldest else None,
        timers=timers[0][0],
        next_timer_us=timers[0][1],
        held=tuple(HeldKey(*row) for row in held),
    )


async def held_row(store: Store, topic: str, key: str) -> HeldRow | None:
    """The refused row of a held key, with its message; None when the key is not held."""
    held = await store.query(f"{_HELD}WHERE h.topic = ? AND h.key = ?", topic, key)
    if not held:
        return None
    value = await store.query("SELECT value FROM millstream_outbox WHERE id = ?", held[0][2])
    message = bytes(value[0][0]).decode(errors="replace") if value else ""
    return HeldRow(HeldKey(*held[0]), message)


async def free_key(store: Store, topic: str, key: str) -> None:
    """Let the relay try the key again as it stands.

    Raises:
        Refused: the key is not held.
    """

    async def work(session: Session) -> None:
        await _held(session, topic, key, None)
        await _free(session, topic, key)

    await store.transact(work)


async def edit_row(store: Store, topic: str, key: str, row_id: int, data: bytes) -> None:
    """Replace the data of the refused row, then free the key.

    Raises:
        Refused: the key is not held by this row, or the data is no JSON or too large.
    """

    async def work(session: Session) -> None:
        await _held(session, topic, key, row_id)
        row = await session.fetch_one("SELECT value FROM millstream_outbox WHERE id = ?", row_id)
        if row is None:
            raise Refused(f"outbox row {row_id} is gone")
        await session.execute(
            "UPDATE millstream_outbox SET value = ? WHERE id = ?", edited(bytes(row[0]), data), row_id
        )
        await _free(session, topic, key)

    await store.transact(work)


async def drop_row(store: Store, topic: str, key: str, row_id: int) -> None:
    """Discard the refused row for good, then free the key.

    Raises:
        Refused: the key is not held by this row.
    """

    async def work(session: Session) -> None:
        await _held(session, topic, key, row_id)
        await session.execute("DELETE FROM millstream_outbox WHERE id = ?", row_id)
        await _free(session, topic, key)

    await store.transact(work)


async def _held(session: Session, topic: str, key: str, row_id: int | None) -> Row:
    """The held key, its row written first so that two operators do not decide about it at once."""
    await session.execute("UPDATE millstream_held_keys SET since = since WHERE topic = ? AND key = ?", topic, key)
    row = await session.fetch_one("SELECT row_id FROM millstream_held_keys WHERE topic = ? AND key = ?", topic, key)
    if row is None:
        raise Refused(f"key {key!r} of topic {topic!r} is not held")
    if row_id is not None and row[0] != row_id:
        raise Refused(f"key {key!r} of topic {topic!r} is held by row {row[0]} now, not by {row_id}: look again")
    return row


async def _free(session: Session, topic: str, key: str) -> None:
    await session.execute("DELETE FROM millstream_held_keys WHERE topic = ? AND key = ?", topic, key)
    session.notify(OUTBOX_CHANNEL)


def _written(value: bytes) -> int | None:
    try:
        return parse_time(decode_message(bytes(value)).time)
    except Undecodable:
        return None
