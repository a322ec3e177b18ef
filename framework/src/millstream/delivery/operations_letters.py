"""The operator's view of dead letters: finding, showing, redriving and dropping them (rules F2, C9).

Every change of letters runs in transactions of one claim each, its row written first, of a bounded number of letters:
the partition's holder waits for a few milliseconds at most.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from itertools import groupby

import msgspec

from ..errors import Refused, Undecodable
from ..message import DATA_LIMIT_BYTES, Message, decode_message, encode_message
from ..ports.store import Param, Row, Session, Store
from .dead_letters import HOLDS
from .operations_api import DeadLetter, DeadLetterFilter, DeadLetterRow, Moved
from .operations_lanes import known_subscriptions, shortened

__all__ = ["REDRIVABLE", "edited", "find", "letter_rows", "move", "show"]

STEP = 100
"""Letters moved in one transaction."""
PAGE = 500
REDRIVABLE = "(d.lane > 0 OR d.key <> '')"
"""Without a readable envelope there is no lane to go back to: such a letter can only be dropped."""

_COLUMNS = """
SELECT d.id, s.name, s.topic, d.partition, d.position, d.key, d.tenant, d.lane, d.reason, d.error, d.attempts, d.died,
    d.value, d.subscription, d.layout
FROM millstream_dead_letters d JOIN millstream_subscriptions s ON s.id = d.subscription
"""
_UNREADABLE = Message("", "", "", "")
Found = tuple[int, tuple[int, int]]
"""Id of a letter, and its claim."""
Step = Callable[[Session, int], Awaitable[None]]


async def letter_rows(store: Store, service: str, letters: DeadLetterFilter, limit: int) -> list[DeadLetterRow]:
    """Letters that the filter means, by id."""
    where, params = await _where(store, service, letters)
    found: list[DeadLetterRow] = []
    after = letters.after_id
    while len(found) < limit:
        rows = await store.scan(f"{_COLUMNS}{where} AND d.id > ? ORDER BY d.id LIMIT ?", *params, after, PAGE)
        found += (_row(service, row) for row in rows if _is_of_type(row[12], letters.type))
        if len(rows) < PAGE:
            break
        after = rows[-1][0]
    return found[:limit]


async def show(store: Store, service: str, letter_id: int) -> DeadLetter | None:
    """One letter with its message; None when there is none of this id."""
    rows = await store.query(f"{_COLUMNS}WHERE d.id = ?", letter_id)
    if not rows:
        return None
    row = rows[0]
    behind = await store.query(
        "SELECT COUNT(*) FROM millstream_parked WHERE subscription = ? AND partition = ? AND tenant = ? AND key = ? "
        "AND (layout, position) > (?, ?)",
        row[13],
        row[3],
        row[6],
        row[5],
        row[14],
        row[4],
    )
    return DeadLetter(_row(service, row), bytes(row[12]).decode(errors="replace"), row[9], behind[0][0])


async def find(
    store: Store, service: str, letters: DeadLetterFilter, limit: int, also: str = "1 = 1"
) -> tuple[list[Found], int]:
    """The oldest `limit` letters that the filter means, and how many it means. `also`: a further condition, constant."""
    where, params = await _where(store, service, letters)
    where = f"{where} AND {also} AND d.id > ?"
    value = "d.value" if letters.type is not None else "NULL"
    found: list[Found] = []
    matched, after = 0, letters.after_id
    while True:
        enough = len(found) >= limit and letters.type is None
        if enough:  # without a type the store counts faster than we read
            rows = await store.scan(
                f"SELECT COUNT(*) FROM millstream_dead_letters d JOIN millstream_subscriptions s "  # noqa: S608 - constants
                f"ON s.id = d.subscription {where}",
                *params,
                letters.after_id,
            )
            return found, rows[0][0]
        page = PAGE if letters.type is not None else min(PAGE, limit - len(found))
        rows = await store.scan(
            f"SELECT d.id, d.subscription, d.partition, {value} FROM millstream_dead_letters d "  # noqa: S608 - constants
            f"JOIN millstream_subscriptions s ON s.id = d.subscription {where} ORDER BY d.id LIMIT ?",
            *params,
            after,
            page,
        )
        for id_, subscription, partition, stored in rows:
            if letters.type is None or _is_of_type(stored, letters.type):
                matched += 1
                if len(found) < limit:
                    found.append((id_, (subscription, partition)))
        if len(rows) < page:
            return found, matched
        after = rows[-1][0]


async def move(store: Store, found: list[Found], matched: int, step: Step, *, dry_run: bool, strict: bool) -> Moved:
    """Run `step` for each letter. `strict`: a letter that is gone or cannot be moved is an error, not passed over."""
    if dry_run:
        return Moved(matched, 0, matched, tuple(id_ for id_, _ in found))
    moved: list[int] = []
    for _, group in groupby(sorted(found, key=lambda letter: (letter[1], letter[0])), key=lambda letter: letter[1]):
        ids = [id_ for id_, _ in group]
        for start in range(0, len(ids), STEP):
            moved += await store.transact(
                lambda session, chunk=ids[start : start + STEP]: _move_chunk(session, chunk, step, strict)
            )
    # What vanished meanwhile was moved by somebody else: it does not remain.
    return Moved(matched, len(moved), matched - len(found), tuple(sorted(moved)))


def edited(value: bytes, data: bytes) -> bytes:
    """A message with new data, everything else as it was: its place and its id stay (rule F2).

    Raises:
        Refused: the data is no JSON, the message is too large then, or its envelope cannot be read.
    """
    try:
        msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(f"the new data is no JSON: {error}") from error
    try:
        message = decode_message(value)
    except Undecodable as error:
        raise Refused(f"{error}; a message without a readable envelope can only be dropped") from error
    changed = encode_message(
        msgspec.structs.replace(message, data=msgspec.Raw(data), data_base64=None, datacontenttype="application/json")
    )
    if len(changed) > DATA_LIMIT_BYTES:
        raise Refused(f"the message would take {len(changed)} bytes, the log carries {DATA_LIMIT_BYTES}")
    return changed


async def _move_chunk(session: Session, ids: list[int], step: Step, strict: bool) -> list[int]:
    moved: list[int] = []
    for id_ in ids:
        try:
            await step(session, id_)
        except Refused:
            if strict:
                raise
        else:
            moved.append(id_)
    return moved


async def _where(store: Store, service: str, letters: DeadLetterFilter) -> tuple[str, list[Param]]:
    known = await known_subscriptions(store, service, letters.subscription)
    topics = sorted({topic for _, topic in known.values()})
    if letters.topic is not None and letters.topic not in topics:
        raise Refused(f"{service!r} consumes no topic {letters.topic!r}; there are: {', '.join(topics) or 'none'}")
    conditions: list[str] = []
    params: list[Param] = []
    if letters.ids:
        conditions.append(f"d.id IN ({', '.join('?' * len(letters.ids))})")
        params += letters.ids
    for condition, value in (
        ("s.name = ?", letters.subscription),
        ("s.topic = ?", letters.topic),
        ("d.key = ?", letters.key),
        ("d.tenant = ?", letters.tenant),
        ("d.died < ?", letters.before_us),
        ("d.died > ?", letters.after_us),
    ):
        if value is not None:
            conditions.append(condition)
            params.append(value)
    if letters.reason is not None:
        conditions.append("LOWER(d.reason || ': ' || d.error) LIKE LOWER(?) ESCAPE '!'")
        text = letters.reason
        for special in "!%_":
            text = text.replace(special, f"!{special}")
        params.append(f"%{text}%")
    return f"WHERE {' AND '.join(conditions) or '1 = 1'}", params


def _is_of_type(value: bytes, wanted: str | None) -> bool:
    return wanted is None or _envelope(value).type == wanted


def _envelope(value: bytes) -> Message:
    try:
        return decode_message(bytes(value))
    except Undecodable:
        return _UNREADABLE


def _row(service: str, row: Row) -> DeadLetterRow:
    message = _envelope(row[12])
    return DeadLetterRow(
        service=service,
        id=row[0],
        subscription=row[1],
        topic=row[2],
        partition=row[3],
        position=row[4],
        key=row[5] or None,
        tenant=row[6] or None,
        message_id=message.id,
        source=message.source,
        type=message.type,
        reason=f"{row[8]}: {shortened(row[9])}" if row[9] else row[8],
        attempts=row[10],
        dead_since_us=row[11],
        holds_lane=row[7] == HOLDS,
    )
