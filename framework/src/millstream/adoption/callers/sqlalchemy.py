"""SQLAlchemy: Core connections and ORM sessions, sync and async, on PostgreSQL and SQLite.

`publish` buffers. The rows are written from the connection's own `commit` event: behind the session's last flush and
everybody's `before_commit`, directly before COMMIT goes out (rule T4). What a rolled back savepoint published is dropped
with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    bindparam,
    event,
    insert,
    select,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY
from sqlalchemy.exc import UnboundExecutionError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from ...errors import MillstreamError, Misconfigured
from ..rows import OutboxRow, slots_of
from ..statements import Place

__all__ = ["accept", "accept_async", "add", "is_async"]

DIALECTS = ("postgresql", "sqlite")


class _Waiting(NamedTuple):
    """A row, where it goes, and the units of work whose undoing takes it along."""

    place: Place
    row: OutboxRow
    units: frozenset[object]


_INFO = "millstream.adoption"
"""Where a session keeps its rows: in its own dictionary, since they refer to it."""
# What belongs to a connection, for as long as that lives.
_of_connections: WeakKeyDictionary[Connection, list[_Waiting]] = WeakKeyDictionary()
_joined: WeakKeyDictionary[Connection, WeakSet[Session]] = WeakKeyDictionary()
"""Sessions that work inside somebody else's transaction on a connection: its commit may come before their own."""
_engines: WeakSet[Engine] = WeakSet()
_tables: dict[tuple[str, str | None], Table] = {}


def is_async(connection: object) -> bool:
    """Whether statements on it have to be awaited."""
    return isinstance(connection, AsyncConnection | AsyncSession | async_scoped_session)


def add(place: Place, connection: object, row: OutboxRow) -> None:
    """Let a row leave with the commit of this connection or session."""
    session = _session(connection)
    if session is not None:
        _add_to_session(place, session, row)
    else:
        _add_to_connection(place, _core(connection), row)


# -- sessions -----------------------------------------------------------------------------------------------------


def _add_to_session(place: Place, session: Session, row: OutboxRow) -> None:
    if session.twophase:
        raise Misconfigured("publish: a session with twophase=True has no last statement before its commit")
    bind = _bind(session)
    _check_dialect(bind)
    if isinstance(bind, Connection):
        _listen(bind.engine)
        _joined.setdefault(bind, WeakSet()).add(session)
    waiting = _of_session(session)
    if waiting is None:
        waiting = session.info[_INFO] = list[_Waiting]()
        event.listen(session, "before_commit", _session_commits)
        event.listen(session, "after_soft_rollback", _session_rolls_back)
        event.listen(session, "after_transaction_end", _session_transaction_ends)
    if not session.in_transaction():
        session.begin()  # as its first statement would: without it nobody could take the event back
    units: set[object] = set()
    unit: SessionTransaction | None = session.get_nested_transaction() or session.get_transaction()
    while unit is not None:
        units.add(unit)
        unit = unit.parent
    waiting.append(_Waiting(place, row, frozenset(units)))


def _session_commits(session: Session) -> None:
    """The session's outermost commit begins: from here on the rows belong to its connection."""
    if session.in_nested_transaction():
        return
    waiting = _of_session(session)
    if waiting:
        connection = session.connection()
        for entry in waiting:
            _add_to_connection(entry.place, connection, entry.row)
        waiting.clear()


def _session_rolls_back(session: Session, unit: SessionTransaction) -> None:
    waiting = _of_session(session)
    if waiting:
        waiting[:] = [entry for entry in waiting if unit not in entry.units]


def _session_transaction_ends(session: Session, unit: SessionTransaction) -> None:
    """A session that was closed in the middle rolls back without saying so."""
    if unit.parent is None and (waiting := _of_session(session)):
        waiting.clear()


def _of_session(session: Session) -> list[_Waiting] | None:
    return session.info.get(_INFO)


# -- connections --------------------------------------------------------------------------------------------------


def _add_to_connection(place: Place, connection: Connection, row: OutboxRow) -> None:
    _check(connection)
    _listen(connection.engine)
    units: set[object] = set()
    # SQLAlchemy gives no public way from a savepoint to its name and to the one around it; its events go by name.
    unit: Any = connection.get_nested_transaction()
    while unit is not None:
        units.add(unit._savepoint)
        unit = unit._previous_nested
    _of_connections.setdefault(connection, []).append(_Waiting(place, row, frozenset(units)))


def _listen(engine: Engine) -> None:
    if engine not in _engines:
        _engines.add(engine)
        event.listen(engine, "commit", _connection_commits)
        event.listen(engine, "rollback", _connection_rolls_back)
        event.listen(engine, "rollback_savepoint", _savepoint_rolls_back)
        event.listen(engine, "prepare_twophase", _refuse_twophase)


def _take(connection: Connection) -> list[_Waiting]:
    """What waits for the end of a connection's transaction, which has come."""
    waiting = _of_connections.pop(connection, [])
    for session in _joined.pop(connection, ()):
        late = _of_session(session) or []
        waiting += late
        late.clear()
    return waiting


def _connection_commits(connection: Connection) -> None:
    waiting = _take(connection)
    if not waiting:
        return
    try:
        for place in dict.fromkeys(entry.place for entry in waiting):
            _insert(connection, place, [entry.row for entry in waiting if entry.place is place])
    except BaseException:
        # SQLAlchemy takes a failed commit for the end of the transaction, and sends no ROLLBACK any more.
        with suppress(Exception):  # the connection may be what failed
            connection.dialect.do_rollback(connection.connection)
        raise


def _connection_rolls_back(connection: Connection) -> None:
    _take(connection)


def _savepoint_rolls_back(connection: Connection, name: str, _: object) -> None:
    waiting = _of_connections.get(connection)
    if waiting:
        waiting[:] = [entry for entry in waiting if name not in entry.units]


def _refuse_twophase(connection: Connection, _: object) -> None:
    if _take(connection):
        raise MillstreamError("publish: a two-phase transaction has no last statement before its commit")


def _insert(connection: Connection, place: Place, rows: Sequence[OutboxRow]) -> None:
    if connection.dialect.name == "postgresql":
        lock = text(place.lock_and_ring(":slots")).bindparams(bindparam("slots", type_=ARRAY(Integer)))
        connection.execute(lock, {"slots": slots_of(rows)})
    values = [{"slot": r.slot, "topic": r.topic, "key": r.key, "value": r.value} for r in rows]
    connection.execute(insert(_table("millstream_outbox", place, connection)), values)


def _table(name: str, place: Place, connection: Connection) -> Table:
    schema = place.schema if connection.dialect.name == "postgresql" else None
    found = _tables.get((name, schema))
    if found is None:
        columns: dict[str, Any] = {
            "millstream_outbox": {"slot": BigInteger, "topic": Text, "key": Text, "value": LargeBinary},
            "millstream_inbox": {
                "subscription": BigInteger, "source": Text, "id": Text, "partition": BigInteger, "time": BigInteger,
            },
        }  # fmt: skip
        found = Table(name, MetaData(), *(Column(c, kind) for c, kind in columns[name].items()), schema=schema)
        _tables[name, schema] = found
    return found


# -- the inbox ----------------------------------------------------------------------------------------------------


def accept(place: Place, connection: object, params: tuple[int, str, str, int]) -> tuple[bool, int]:
    """Insert an inbox row; whether it is new, and the bound below which the inbox has forgotten (0: none)."""
    session = _session(connection)
    return _accept(place, _core(connection) if session is None else session.connection(), params)


async def accept_async(place: Place, connection: object, params: tuple[int, str, str, int]) -> tuple[bool, int]:
    """As `accept`."""
    if isinstance(connection, async_scoped_session):
        connection = cast(AsyncSession, connection())
    if isinstance(connection, AsyncSession):
        connection = await connection.connection()
    assert isinstance(connection, AsyncConnection)
    return await connection.run_sync(lambda core: _accept(place, core, params))


def _accept(place: Place, connection: Connection, params: tuple[int, str, str, int]) -> tuple[bool, int]:
    _check_dialect(connection)
    subscription, source, id_, time_us = params
    inbox = _table("millstream_inbox", place, connection)
    values = {"subscription": subscription, "source": source, "id": id_, "partition": 0, "time": time_us}
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_or_not
    else:
        from sqlalchemy.dialects.sqlite import insert as insert_or_not
    # Not `rowcount`: SQLAlchemy does not keep it for an INSERT, and what stands there depends on the driver.
    inserted = insert_or_not(inbox).values(**values).on_conflict_do_nothing().returning(inbox.c.partition)
    if connection.execute(inserted).first() is None:
        return False, 0
    query = select(inbox.c.time).where(inbox.c.subscription == subscription, inbox.c.source == source, inbox.c.id == "")
    return True, connection.execute(query).scalar() or 0


# -- what a user may hand in --------------------------------------------------------------------------------------


def _session(connection: object) -> Session | None:
    if isinstance(connection, scoped_session | async_scoped_session):
        connection = cast(Any, connection)()
    if isinstance(connection, AsyncSession):
        return connection.sync_session
    return connection if isinstance(connection, Session) else None


def _core(connection: object) -> Connection:
    if isinstance(connection, AsyncConnection):
        if connection.sync_connection is None:
            raise Misconfigured(
                "publish: this connection is not open; use it in `async with engine.begin() as connection`"
            )
        return connection.sync_connection
    assert isinstance(connection, Connection)
    return connection


def _check(connection: Connection) -> None:
    _check_dialect(connection)
    if not connection.in_transaction():
        raise Misconfigured("publish inside a transaction: with engine.begin() as connection, or connection.begin()")
    level = connection.get_execution_options().get("isolation_level")
    # What create_engine was given is in no public place; to ask the database would cost a round trip.
    if (level or getattr(connection.dialect, "_on_connect_isolation_level", None)) == "AUTOCOMMIT":
        raise Misconfigured(
            "publish: under isolation level AUTOCOMMIT there is no transaction that an event could join"
        )


def _bind(session: Session) -> Engine | Connection:
    try:
        return session.get_bind()
    except UnboundExecutionError as error:
        raise Misconfigured(
            "publish: this session has no database of its own. Name the one of the outbox: "
            "publish(event, connection=session.connection(bind_arguments={…}))"
        ) from error


def _check_dialect(connection: Engine | Connection) -> None:
    if connection.dialect.name not in DIALECTS:
        raise Misconfigured(f"SQLAlchemy on {connection.dialect.name}: an outbox needs {' or '.join(DIALECTS)}")
